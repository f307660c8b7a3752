// Activation checkpointing: an autograd function that keeps a function's input and runs it again in the backward.
// Called by LongNetLM, for its layers and for the chunks of its loss.
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/utils.h>

#include <mutex>

#include "core/refuse.h"
#include "longstride/nn/layer.h"

namespace longstride {
namespace {

// The autocast settings of one device type.
struct AutocastState {
  at::DeviceType device;
  bool enabled;
  at::ScalarType dtype;
  bool cache;

  static AutocastState now(at::DeviceType device) {
    // A device that knows no autocast has none to repeat; the CPU's is left as it is.
    if (!at::autocast::is_autocast_available(device)) device = at::kCPU;
    return {device, at::autocast::is_autocast_enabled(device), at::autocast::get_autocast_dtype(device),
            at::autocast::is_autocast_cache_enabled()};
  }
  void apply() const {
    at::autocast::set_autocast_enabled(device, enabled);
    at::autocast::set_autocast_dtype(device, dtype);
    at::autocast::set_autocast_cache_enabled(cache);
  }
};

// The states of the generators that a function on one device may draw from: the CPU's, and the device's own.
struct GeneratorStates {
  at::Device device = at::kCPU;
  at::Tensor cpu, own;

  static at::Tensor read(at::Device of) {
    at::Generator generator = at::globalContext().defaultGenerator(of);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    return generator.get_state();
  }
  static void write(at::Device of, const at::Tensor& state) {
    at::Generator generator = at::globalContext().defaultGenerator(of);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(state);
  }
  static GeneratorStates now(at::Device device) {
    GeneratorStates states{device, read(at::kCPU), {}};
    if (!device.is_cpu()) states.own = read(device);
    return states;
  }
  void apply() const {
    write(at::kCPU, cpu);
    if (own.defined()) write(device, own);
  }
};

// A state of a device for as long as this lives.
template <class State>
class Applied {
 public:
  explicit Applied(const State& state) : before_(State::now(state.device)) { state.apply(); }
  ~Applied() { before_.apply(); }
  Applied(const Applied&) = delete;
  Applied& operator=(const Applied&) = delete;

 private:
  State before_;
};

// What the backward needs besides tensors.
struct Rerun : torch::CustomClassHolder {
  Rerun(std::function<at::Tensor(const at::Tensor&)> run, at::Device device, bool draws_random)
      : function(std::move(run)), autocast(AutocastState::now(device.type())) {
    // A cast cached by the first run, which has no graph, would cut the gradients of whoever finds it later.
    autocast.cache = false;
    if (draws_random) generators = GeneratorStates::now(device);
  }
  std::function<at::Tensor(const at::Tensor&)> function;
  AutocastState autocast;
  std::optional<GeneratorStates> generators;
};

class Recompute : public torch::autograd::Function<Recompute> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const c10::intrusive_ptr<Rerun>& rerun,
                            const at::Tensor& x, at::TensorList parameters) {
    context->saved_data["rerun"] = c10::IValue::make_capsule(rerun);
    std::vector<at::Tensor> kept = {x};
    kept.insert(kept.end(), parameters.begin(), parameters.end());
    context->save_for_backward(std::move(kept));
    const Applied autocast(rerun->autocast);
    return rerun->function(x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    if (torch::GradMode::is_enabled()) {
      core::refuse("create_graph", "must be false through activation checkpointing", "true",
                   "switch activation_checkpointing off for second derivatives");
    }
    const auto kept = context->get_saved_variables();
    const auto capsule = context->saved_data["rerun"].toCapsule();
    const auto* rerun = static_cast<const Rerun*>(capsule.get());
    // Edges are counted over the tensors alone: x, then the parameters.
    std::vector<size_t> wanted;
    for (size_t i = 0; i < kept.size(); ++i) {
      if (context->needs_input_grad(i)) wanted.push_back(i);
    }
    const at::Tensor x = kept[0].detach().set_requires_grad(context->needs_input_grad(0));
    std::vector<at::Tensor> inputs;
    for (const size_t i : wanted) inputs.push_back(i == 0 ? x : kept[i]);

    at::Tensor y;
    {
      std::optional<Applied<GeneratorStates>> generators;
      if (rerun->generators) generators.emplace(*rerun->generators);
      const Applied autocast(rerun->autocast);
      const at::AutoGradMode grad_mode(true);
      y = rerun->function(x);
    }
    auto grads = torch::autograd::grad({y}, inputs, {grad_outputs[0]}, std::nullopt, false, /*allow_unused=*/true);
    // One entry an argument of forward(), of which the first is no tensor.
    torch::autograd::variable_list result(kept.size() + 1);
    for (size_t n = 0; n < wanted.size(); ++n) result[wanted[n] + 1] = grads[n];
    return result;
  }
};

}  // namespace

at::Tensor checkpoint(std::function<at::Tensor(const at::Tensor&)> function, const at::Tensor& x,
                      std::vector<at::Tensor> parameters, bool draws_random) {
  if (!function) core::refuse("function", "must be callable", "an empty one");
  if (!x.defined()) core::refuse("x", "must be a tensor", "an undefined one");
  if (!torch::GradMode::is_enabled()) return function(x);
  std::erase_if(parameters, [](const at::Tensor& p) { return !p.defined() || !p.requires_grad(); });
  if (parameters.empty() && !x.requires_grad()) return function(x);
  auto rerun = c10::make_intrusive<Rerun>(std::move(function), x.device(), draws_random);
  // A TensorList, for the tensors of a std::vector would not be taken as inputs that want gradients.
  return Recompute::apply(rerun, x, at::TensorList(parameters));
}

}  // namespace longstride
