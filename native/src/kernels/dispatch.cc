// The table of kernels, best first within an instruction set, and the choice among them.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "error.h"
#include "kernels/amx.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"
#include "kernels/transformer.h"
#include "kernels/winograd.h"
#include "quantsr/engine.h"

#ifdef QUANTSR_X86
#include <cpuid.h>
#endif
#if defined(QUANTSR_ARM) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace quantsr {
namespace {

bool any_shape(const ConvShape&) { return true; }

#ifdef QUANTSR_X86
// Whether one step of vpmaddubsw cannot saturate; the next kernel takes layers where it can.
bool fits_bytes(const ConvShape& s) { return 2 * ((1 << s.act_bits) - 1) * (1 << (s.weight_bits - 1)) <= 32767; }
#endif

template <int Panel>
PackedConv qconv_panels(const ConvShape& shape, const int8_t* weights) {
  return pack_qconv_panels(shape, weights, Panel);
}
template <int Panel>
PackedConv conv2d_panels(const ConvShape& shape, const float* weights, const float* bias) {
  return pack_conv2d_panels(shape, weights, bias, Panel);
}

const QConvKernel kQConv[] = {
    {"direct_ref", Isa::ref, any_shape, pack_qconv_plain, qconv_ref},
#ifdef QUANTSR_X86
    {"f4x4_avx2", Isa::avx2, winograd_fits<F4x4>, pack_qconv_f4x4_avx2, qconv_f4x4_avx2},
    {"f2x2_avx2", Isa::avx2, winograd_fits<F2x2>, pack_qconv_f2x2_avx2, qconv_f2x2_avx2},
    {"direct_avx2", Isa::avx2, fits_bytes, qconv_panels<16>, qconv_avx2},
    {"words_avx2", Isa::avx2, any_shape, pack_qconv_words_avx2, qconv_words_avx2},
    {"f4x4_avxvnni", Isa::avxvnni, winograd_fits<F4x4>, pack_qconv_f4x4_avxvnni, qconv_f4x4_avxvnni},
    {"f2x2_avxvnni", Isa::avxvnni, winograd_fits<F2x2>, pack_qconv_f2x2_avxvnni, qconv_f2x2_avxvnni},
    {"direct_avxvnni", Isa::avxvnni, any_shape, qconv_panels<16>, qconv_avxvnni},
    {"f4x4_avx512vnni", Isa::avx512vnni, winograd_fits<F4x4>, pack_qconv_f4x4_avx512vnni, qconv_f4x4_avx512vnni},
    {"f2x2_avx512vnni", Isa::avx512vnni, winograd_fits<F2x2>, pack_qconv_f2x2_avx512vnni, qconv_f2x2_avx512vnni},
    {"direct_avx512vnni", Isa::avx512vnni, any_shape, qconv_panels<64>, qconv_avx512vnni},
    {"direct_amx", Isa::amx, any_shape, pack_qconv_amx, qconv_amx},
#endif
#ifdef QUANTSR_ARM
    {"f4x4_neon", Isa::neon, winograd_fits<F4x4>, pack_qconv_f4x4_neon, qconv_f4x4_neon},
    {"f2x2_neon", Isa::neon, winograd_fits<F2x2>, pack_qconv_f2x2_neon, qconv_f2x2_neon},
    {"direct_neon", Isa::neon, any_shape, pack_qconv_neon, qconv_neon},
#endif
};

template <int Panel>
PackedConv winograd_panels(const ConvShape& shape, const float* weights, const float* bias) {
  return pack_conv2d_winograd(shape, weights, bias, Panel);
}

// Of fewer inputs the transforms cost more than they save.
bool fits_winograd(const ConvShape& s) { return (s.kernel == 3 || s.kernel == 5) && s.in_channels >= 32; }

const Conv2dKernel kConv2d[] = {
    {"winograd_ref", Isa::ref, fits_winograd, winograd_panels<1>, conv2d_winograd_ref},
    {"float_ref", Isa::ref, any_shape, pack_conv2d_plain, conv2d_ref},
#ifdef QUANTSR_X86
    {"winograd_avx2", Isa::avx2, fits_winograd, winograd_panels<16>, conv2d_winograd_avx2},
    {"float_avx2", Isa::avx2, any_shape, conv2d_panels<16>, conv2d_avx2},
    {"winograd_avx2", Isa::avxvnni, fits_winograd, winograd_panels<16>, conv2d_winograd_avx2},
    {"float_avx2", Isa::avxvnni, any_shape, conv2d_panels<16>, conv2d_avx2},
    {"winograd_avx512vnni", Isa::avx512vnni, fits_winograd, winograd_panels<64>, conv2d_winograd_avx512vnni},
    {"float_avx512vnni", Isa::avx512vnni, any_shape, conv2d_panels<64>, conv2d_avx512vnni},
    {"winograd_avx512vnni", Isa::amx, fits_winograd, winograd_panels<64>, conv2d_winograd_avx512vnni},
    {"float_avx512vnni", Isa::amx, any_shape, conv2d_panels<64>, conv2d_avx512vnni},
#endif
#ifdef QUANTSR_ARM
    {"winograd_neon", Isa::neon, fits_winograd, winograd_panels<16>, conv2d_winograd_neon},
    {"float_neon", Isa::neon, any_shape, conv2d_panels<16>, conv2d_neon},
#endif
};

#ifdef QUANTSR_X86
// vpdpbusd on 256 bits, without AVX-512.
bool cpu_has_avxvnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & (1u << 4)) != 0;
}
#endif

bool available(Isa isa) {
#ifdef QUANTSR_X86
  __builtin_cpu_init();
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avxvnni) return available(Isa::avx2) && cpu_has_avxvnni();
  if (isa == Isa::avx512vnni)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  if (isa == Isa::amx) return available(Isa::avx512vnni) && amx_available();
#endif
#if defined(QUANTSR_ARM) && defined(__linux__)
  if (isa == Isa::neon) return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(QUANTSR_ARM) && defined(__APPLE__)
  if (isa == Isa::neon) return true;  // every 64-bit Mac has sdot
#endif
  return isa == Isa::ref;
}

constexpr Isa kIsas[] = {Isa::ref, Isa::avx2, Isa::avxvnni, Isa::avx512vnni, Isa::amx, Isa::neon};

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2: return "avx2";
    case Isa::avxvnni: return "avxvnni";
    case Isa::avx512vnni: return "avx512vnni";
    case Isa::amx: return "amx";
    case Isa::neon: return "neon";
    default: return "ref";
  }
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (Isa isa : kIsas)
    if (available(isa)) names.push_back(isa_name(isa));
  return names;
}

Isa choose_isa(const std::string& wanted) {
  const char* variable = std::getenv("QUANTSR_ISA");
  const std::string name = !wanted.empty() ? wanted : variable != nullptr ? variable : "";
  Isa best = Isa::ref;
  std::string known;
  for (Isa isa : kIsas) {
    if (!available(isa)) continue;
    if (name == isa_name(isa)) return isa;
    best = isa;
    known += (known.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  if (!name.empty()) fail("instruction set", "one that this CPU has (" + known + ")", "'" + name + "'");
  return best;
}

std::vector<const QConvKernel*> qconv_kernels(Isa isa) {
  std::vector<const QConvKernel*> found;
  for (const QConvKernel& kernel : kQConv)
    if (kernel.isa == isa) found.push_back(&kernel);
  return found;
}

PreparedQConv prepare_qconv(Isa isa, const ConvShape& shape, const int8_t* weights, const std::string& preferred) {
  std::vector<const QConvKernel*> kernels = qconv_kernels(isa);
  std::stable_partition(kernels.begin(), kernels.end(), [&](const auto* kernel) { return preferred == kernel->name; });
  for (const QConvKernel* kernel : kernels) {
    if (!kernel->fits(shape)) continue;
    PackedConv packed = kernel->prepare(shape, weights);
    if (packed.codes.size() > 0) return {kernel, std::move(packed)};
  }
  fail("qconv2d", std::string("a kernel for ") + isa_name(isa), "none");
}

std::vector<std::string> qconv_kernel_names(const std::string& isa) {
  std::vector<std::string> names;
  for (const QConvKernel* kernel : qconv_kernels(choose_isa(isa))) names.push_back(kernel->name);
  return names;
}

std::vector<const Conv2dKernel*> conv2d_kernels(Isa isa) {
  std::vector<const Conv2dKernel*> found;
  for (const Conv2dKernel& kernel : kConv2d)
    if (kernel.isa == isa) found.push_back(&kernel);
  return found;
}

bool conv2d_in_cells(int kernel, int in_channels) { return fits_winograd({in_channels, 0, kernel}); }

const TransformerKernels& transformer_kernels(Isa isa) {
#ifdef QUANTSR_X86
  if (isa == Isa::avx2 || isa == Isa::avxvnni) return kTransformerAvx2;
  if (isa == Isa::avx512vnni || isa == Isa::amx) return kTransformerAvx512;
#endif
#ifdef QUANTSR_ARM
  if (isa == Isa::neon) return kTransformerNeon;
#endif
  if (isa == Isa::ref) return kTransformerRef;
  fail("transformers", "kernels for the instruction set", isa_name(isa));
}

const Conv2dKernel& direct_conv2d(Isa isa) { return *conv2d_kernels(isa).back(); }

const Conv2dKernel& choose_conv2d(Isa isa, const ConvShape& shape) {
  for (const Conv2dKernel* kernel : conv2d_kernels(isa))
    if (kernel->fits(shape)) return *kernel;
  fail("conv2d", std::string("a kernel for ") + isa_name(isa), "none");
}

}  // namespace quantsr
