// The engine as a Python module: converts arguments and calls.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "quantsr/engine.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Image = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using OpTuple = std::tuple<std::string, std::vector<std::string>, std::string, std::map<std::string, double>,
                           std::map<std::string, Array>>;

quantsr::Tensor tensor_of(const std::string& role, const Array& array) {
  quantsr::Tensor tensor{quantsr::DType::f32, {}, array.data()};
  if (array.dtype() == nb::dtype<int8_t>())
    tensor.dtype = quantsr::DType::i8;
  else if (array.dtype() != nb::dtype<float>())
    throw std::invalid_argument("tensor " + role + ": wanted float32 or int8, got another dtype");
  for (size_t i = 0; i < array.ndim(); ++i) tensor.shape.push_back(static_cast<int64_t>(array.shape(i)));
  return tensor;
}

quantsr::Op op_of(const OpTuple& tuple) {
  quantsr::Op op{std::get<0>(tuple), std::get<1>(tuple), std::get<2>(tuple), std::get<3>(tuple), {}};
  for (const auto& [role, array] : std::get<4>(tuple)) op.tensors[role] = tensor_of(role, array);
  return op;
}

void construct(quantsr::Engine* self, const std::vector<OpTuple>& tuples, const std::string& output, int image_channels,
               int threads, const std::string& isa, const std::string& preferred_kernel) {
  std::vector<quantsr::Op> ops;
  for (const OpTuple& tuple : tuples) ops.push_back(op_of(tuple));
  const nb::gil_scoped_release release;
  new (self) quantsr::Engine(ops, output, image_channels, threads, isa, preferred_kernel);
}

std::string shape_text(size_t h, size_t w, size_t c) {
  return "(" + std::to_string(h) + ", " + std::to_string(w) + ", " + std::to_string(c) + ")";
}

void run(quantsr::Engine& engine, const Image& image, const Output& out) {
  const size_t h = image.shape(0), w = image.shape(1), up = engine.upscale();
  const size_t in = engine.image_channels(), channels = engine.output_channels();
  if (image.shape(2) != in)
    throw std::invalid_argument("image: wanted " + std::to_string(in) + " channels, got " +
                                std::to_string(image.shape(2)));
  if (out.shape(0) != h * up || out.shape(1) != w * up || out.shape(2) != channels)
    throw std::invalid_argument("out: wanted shape " + shape_text(h * up, w * up, channels) + ", got " +
                                shape_text(out.shape(0), out.shape(1), out.shape(2)));
  const nb::gil_scoped_release release;
  engine.run(image.data(), static_cast<int64_t>(h), static_cast<int64_t>(w), out.data());
}

}  // namespace

NB_MODULE(_native, m) {
  m.attr("MAX_THREADS") = quantsr::kMaxThreads;
  m.def("available_isas", &quantsr::available_isas);
  m.def("qconv_kernel_names", &quantsr::qconv_kernel_names, "isa"_a);
  m.def("vpdpbusd_peak", &quantsr::vpdpbusd_peak);
  m.def("conv2d_in_cells", &quantsr::conv2d_in_cells, "kernel"_a, "in_channels"_a);
  nb::class_<quantsr::Engine>(m, "Engine")
      .def("__init__", &construct, "ops"_a, "output"_a, "image_channels"_a, "threads"_a, "isa"_a,
           "preferred_kernel"_a = "")
      .def("run", &run, "image"_a.noconvert(), "out"_a.noconvert())
      .def("workspace_bytes", &quantsr::Engine::workspace_bytes, "height"_a, "width"_a)
      .def("describe", &quantsr::Engine::describe)
      .def("step_seconds", &quantsr::Engine::step_seconds, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("upscale", &quantsr::Engine::upscale)
      .def_prop_ro("output_channels", &quantsr::Engine::output_channels)
      .def_prop_ro("image_channels", &quantsr::Engine::image_channels)
      .def_prop_ro("threads", &quantsr::Engine::threads)
      .def_prop_ro("isa", &quantsr::Engine::isa);
}
