// Fragment, compiled per target: the target's functions as an AttentionKernels value.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

inline const AttentionKernels* attention_kernels() {
  static constexpr AttentionKernels kKernels = {
      .pack_panel = &attention::pack_panel,
      .pack_rows = &attention::pack_rows,
      .softcap = &attention::softcap,
      .add_mask = &attention::add_mask,
      .add_alibi = &attention::add_alibi,
      .multiply = &attention::multiply,
      .softmax = &attention::softmax,
      .dot = &attention::dot,
      .weigh = &attention::weigh,
      .split = &attention::split,
      .unsplit = &attention::unsplit,
      .logits = &attention::logits,
      .has_nan = &attention::has_nan,
      .weights = &attention::weights,
      .largest_magnitudes = &attention::largest_magnitudes,
      .add_words = &attention::add_words,
      .column_sums = &attention::column_sums,
      .pack_quads = &attention::pack_quads};
  return &kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
