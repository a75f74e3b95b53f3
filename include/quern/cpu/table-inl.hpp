// Fragment, compiled per target: the target's functions as a Kernels value, and the tile shapes.
HWY_BEFORE_NAMESPACE();
namespace quern {
inline namespace QUERN_ABI {
namespace cpu {
namespace HWY_NAMESPACE {

/// R rows; two panels at a time if kPanels is 2, for few rows or wide registers.
template <class Mac, int R, int kPanels>
Tile make_tile() {
  return {R, kPanels, {&tile<Mac, R, 1>, &tile<Mac, R, kPanels>}};
}

/// Tile heights, chosen by the register budget: sums + one step of B + a broadcast (+ a product).
///   32 x 512 bits   8 rows x 2 panels: 16 sums + 2 + 1 of 32
///   16 x 256 bits   6 rows x 1 panel: 12 + 2 + 1 + 1 of 16
///   16 x 128 bits   2 rows x 1 panel: 8 + 4 + 1 + 1 of 16
///   32 x 128 bits   4 rows x 1 panel: 16 + 4 + 1 of 32; 2 rows where an idiom keeps two sums
/// With one or two rows, two panels keep enough independent sums in flight.
template <class Mac>
void set_tiles(Idiom& idiom) {
#if HWY_TARGET == HWY_SCALAR
  idiom.tiles[0] = make_tile<Mac, 1, 1>();
#elif HWY_HAVE_SCALABLE
  idiom.tiles[0] = make_tile<Mac, 4, 1>();
  idiom.tiles[1] = make_tile<Mac, 1, 1>();
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  idiom.tiles[0] = make_tile<Mac, 8, 2>();
  idiom.tiles[1] = make_tile<Mac, 4, 2>();
  idiom.tiles[2] = make_tile<Mac, 2, 2>();
  idiom.tiles[3] = make_tile<Mac, 1, 2>();
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  idiom.tiles[0] = make_tile<Mac, 6, 1>();
  idiom.tiles[1] = make_tile<Mac, 4, 1>();
  idiom.tiles[2] = make_tile<Mac, 2, 2>();
  idiom.tiles[3] = make_tile<Mac, 1, 2>();
#elif HWY_ARCH_X86
  idiom.tiles[0] = make_tile<Mac, 2, 1>();
  idiom.tiles[1] = make_tile<Mac, 1, 1>();
#else
  if constexpr (!Mac::kTwoSums) {
    idiom.tiles[0] = make_tile<Mac, 4, 1>();
    idiom.tiles[1] = make_tile<Mac, 2, 1>();
    idiom.tiles[2] = make_tile<Mac, 1, 1>();
  } else {
    idiom.tiles[0] = make_tile<Mac, 2, 1>();
    idiom.tiles[1] = make_tile<Mac, 1, 1>();
  }
#endif
}

/// Two words of B a column and two of A a row leave room for 4 rows.
template <class Mac>
void set_sums_tiles(Idiom& idiom) {
  idiom.tiles[0] = make_tile<Mac, 4, 1>();
  idiom.tiles[1] = make_tile<Mac, 2, 1>();
  idiom.tiles[2] = make_tile<Mac, 1, 1>();
  idiom.tiles[3] = {};
}

/// `dot`: the CPU has the dot-product instructions that MacQuads needs.
inline Kernels make_kernels(bool dot) {
  Kernels k = {};
  k.target = hwy::TargetName(HWY_TARGET);
  k.target_bit = HWY_TARGET;
  k.pairs.form = k.few.form = RowForm::s16_pairs;
  k.f32.name = "f32";
  k.f32.form = RowForm::f32;
  set_tiles<MacF32>(k.f32);
#if HWY_TARGET == HWY_SCALAR
  k.pairs.name = k.few.name = "scalar";
  k.pairs.tiles[0] = k.few.tiles[0] = {1, 1, {&tile_pairs_scalar, &tile_pairs_scalar}};
#else
  k.pairs.widen_b = true;
#if QUERN_HAVE_SUMS
  k.pairs.name = "s16_sums";
  k.pairs.row_products = true;
  set_sums_tiles<MacSums>(k.pairs);
#else
  k.pairs.name = "s16_pairs";
  set_tiles<MacPairs>(k.pairs);
#endif
#if QUERN_HAVE_PROVEN
  k.few.name = "u8s8_nibbles";
  k.few.form = RowForm::nibbles;
  k.few.tiles[0] = {2, 1, {&tile_nibbles<2, 1>, &tile_nibbles<2, 1>}};
  k.few.tiles[1] = {1, 1, {&tile_nibbles<1, 1>, &tile_nibbles<1, 1>}};
  k.split_nibbles = &split_nibbles;
#else
  k.few.name = "s16_pairs_stream";
  set_tiles<MacPairsStream>(k.few);
#endif
#endif
#if QUERN_HAVE_PROVEN
  k.proven.name = "u8s8_proven";
  k.proven.form = RowForm::u8_quads;
  set_tiles<MacProven>(k.proven);
#endif
#if QUERN_HAVE_QUADS
  if (dot) {
    k.quads.name = HWY_ARCH_X86 ? "u8s8_dot" : "s8s8_dot";
    k.quads.form = HWY_ARCH_X86 ? RowForm::u8_quads : RowForm::s8_quads;
    set_tiles<MacQuads>(k.quads);
  }
#endif
  (void)dot;
  k.widen = &widen;
  k.pack_pairs = &pack_pairs;
  k.pack_words = &pack_words;
  k.row_sum = &row_sum;
  k.largest = &largest;
  k.quantize_row = &quantize_row;
  k.finish = &finish;
  return k;
}

/// Built on first use; `dot` only counts if this CPU has the instructions.
inline const Kernels* kernels(bool dot) {
  static const Kernels kWithout = make_kernels(false);
  static const Kernels kWith =
      make_kernels(has_dot_product(HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3));
  return dot ? &kWith : &kWithout;
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu
}  // namespace QUERN_ABI
}  // namespace quern
HWY_AFTER_NAMESPACE();
