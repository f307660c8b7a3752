// A call's fields as the dispatcher hands them over, from the one list of them. For what registers and what calls
// operators that take a call.
#pragma once

#include <string_view>
#include <tuple>

#include "op/autograd/tensor.h"

namespace longstride::op::autograd {

// A field as the dispatcher hands it over.
template <class Field>
struct Handed {
  using Type = Field;
};
template <>
struct Handed<std::string> {
  using Type = std::string_view;
};
template <>
struct Handed<std::optional<at::Tensor>> {
  using Type = const std::optional<at::Tensor>&;
};

template <class Arguments>
struct HandedFields;
template <class... Owner, class... Field>
struct HandedFields<std::tuple<Argument<Owner, Field>...>> {
  using Type = std::tuple<typename Handed<Field>::Type...>;
};
using CallArguments = HandedFields<decltype(Call::arguments())>::Type;

// In the order of the schema, as long as `call` lives.
inline CallArguments arguments_of(const Call& call) {
  return std::apply([&](const auto&... a) { return CallArguments(call.*a.member...); }, Call::arguments());
}

}  // namespace longstride::op::autograd
