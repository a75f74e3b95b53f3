// Fragment, compiled per target: the target's functions as a ConvKernels value.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

#if QUERN_FIXED_SIZE
template <class Mac>
DepthwiseIdiom depthwise_integers(Index rows, decltype(DepthwiseIdiom::make_line) make_line) {
  return {rows, make_line, &depthwise_sums<Mac>, &depthwise_bytes<Mac>};
}
#endif

/// `dot`: as for make_kernels().
inline ConvKernels make_conv_kernels(bool dot) {
  ConvKernels k = {};
  (void)dot;
#if QUERN_FIXED_SIZE
  k.winograd.name = "winograd_f4x4_3x3";
  k.winograd.form = RowForm::s16_words;
  dot ? set_tiles<MacWideDot>(k.winograd) : set_tiles<MacWide>(k.winograd);
#if QUERN_HAVE_SUMS
  if (!dot) {
    k.winograd_sums = k.winograd;
    k.winograd_sums.row_products = true;
    k.winograd_sums.words = 2;
    set_sums_tiles<MacWideSums>(k.winograd_sums);
    k.winograd_row_products = &winograd_row_products;
    k.winograd_column_products = &winograd_column_products;
  }
#endif
  k.winograd_weights = &winograd_weights;
  k.winograd_input = &winograd_input;
  k.winograd_output = &winograd_output;
  k.depthwise_floats = {1, &copy_line, &depthwise_sums<MacF32>, &depthwise_floats};
  k.depthwise_pairs = dot ? depthwise_integers<MacWideDot>(2, &pair_line)
                          : depthwise_integers<MacWide>(2, &pair_line);
#if QUERN_HAVE_QUADS && HWY_ARCH_X86
  if (dot) k.depthwise_quads = depthwise_integers<MacQuads>(4, &quad_line);
#endif
#else
  k.depthwise_floats = {1, &copy_line, &depthwise_sums<true>, &never_finishes};
  k.depthwise_pairs = {2, &pair_line, &depthwise_sums<false>, &never_finishes};
#endif
  return k;
}

/// Built on first use.
inline const ConvKernels* conv_kernels(bool dot) {
  static const ConvKernels kWithout = make_conv_kernels(false);
  static const ConvKernels kWith = make_conv_kernels(true);
  return dot ? &kWith : &kWithout;
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
