// Checks of values for CLI11 (options.h). That of a number, with units and a range, rewrites what was given into plain
// digits, which CLI11 then converts.
#include "options.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <string_view>
#include <system_error>

#include "core/writable.h"

namespace longstride::cli {
namespace {

enum class Parse { kNone, kBeyond, kNumber };  // kBeyond: a number that its type does not hold

// All of `text`, in base 10.
template <class T>
Parse parse(std::string_view text, T& value) {
  if (text.starts_with('+')) text.remove_prefix(1);
  if (text.starts_with('+')) return Parse::kNone;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size() || error == std::errc::invalid_argument) return Parse::kNone;
  return error == std::errc::result_out_of_range ? Parse::kBeyond : Parse::kNumber;
}

std::string refusal(const std::string& expected, const std::string& given, const char* remedy) {
  return fmt::format("must be {}, got '{}'; {}", expected, given, remedy);
}

const char* side(bool negative) { return negative ? "take a larger one" : "take a smaller one"; }

// `units`: k and m may stand behind the digits.
CLI::Validator whole(int64_t low, int64_t high, bool units) {
  const std::string expected = low == kLeastWhole   ? "a whole number of at most 64 bits"
                               : high == kMostWhole ? fmt::format("a whole number of at least {}", low)
                                                    : fmt::format("a whole number from {} to {}", low, high);
  const auto change = [=](std::string& given) -> std::string {
    std::string_view digits = given;
    int64_t unit = 1;
    if (units && !digits.empty()) {
      const char last = digits.back();
      unit = last == 'k' || last == 'K' ? 1024 : last == 'm' || last == 'M' ? 1024 * 1024 : 1;
      if (unit > 1) digits.remove_suffix(1);
      while (unit > 1 && digits.ends_with(' ')) digits.remove_suffix(1);
    }
    int64_t value = 0;
    const Parse found = parse(digits, value);
    if (found == Parse::kNone) {
      return refusal(
          expected, given,
          units ? "give it in decimal digits; 32k means 32768, 1m means 1048576" : "give it in decimal digits");
    }
    const bool negative = digits.starts_with('-');
    if (found == Parse::kBeyond) return refusal(expected, given, side(negative));
    if (value < low) return refusal(expected, given, side(true));
    if (value > high / unit) return refusal(expected, given, side(false));
    given = fmt::format("{}", value * unit);
    return "";
  };
  return CLI::Validator(change, units ? "TOKENS" : "");
}

CLI::Validator real(double low, double high, bool open) {
  const std::string expected = open ? fmt::format("a positive number of at most {}", high)
                               : low == std::numeric_limits<double>::lowest()
                                   ? std::string("a number that float64 holds")
                                   : fmt::format("a number from {} to {}", low, high);
  return CLI::Validator(
      [=](std::string& given) -> std::string {
        double value = 0;
        const Parse found = parse(given, value);
        if (found == Parse::kNone || (found == Parse::kNumber && !std::isfinite(value)))
          return refusal(expected, given, "give it in decimal digits, such as 0.003 or 3e-3");
        if (found == Parse::kBeyond) return refusal(expected, given, "float64 does not hold it; take another");
        if (value < low || (open && value == low)) return refusal(expected, given, "take a larger one");
        if (value > high) return refusal(expected, given, "take a smaller one");
        if (given.starts_with('+')) given.erase(0, 1);
        return "";
      },
      "");
}

}  // namespace

CLI::Validator whole_number(int64_t low, int64_t high) { return whole(low, high, false); }

CLI::Validator token_count(int64_t low, int64_t high) { return whole(low, high, true); }

CLI::Validator seed_number() {
  return CLI::Validator(
      [](std::string& given) -> std::string {
        uint64_t value = 0;
        const Parse found = parse(given, value);
        const std::string expected = fmt::format("a whole number from 0 to {}", std::numeric_limits<uint64_t>::max());
        if (found == Parse::kBeyond) return refusal(expected, given, "take a smaller one");
        if (found == Parse::kNone) return refusal(expected, given, "give it in decimal digits, without a sign");
        given = fmt::format("{}", value);
        return "";
      },
      "");
}

CLI::Validator real_number(double low, double high) { return real(low, high, false); }

CLI::Validator positive_number(double high) { return real(0, high, true); }

CLI::Validator not_empty() {
  return CLI::Validator(
      [](std::string& given) {
        return std::string(given.empty() ? "must not be empty, got ''; leave the option out or name something" : "");
      },
      "");
}

CLI::Validator output_file() {
  return CLI::Validator([](std::string& given) { return core::why_not_writable(given); }, "");
}

void add_device(CLI::App& command, std::string& device, int64_t& threads) {
  command.add_option("--device", device, "cpu, cuda (of several ranks each its own GPU) or cuda:1")
      ->capture_default_str();
  add(command, "--threads", threads, "threads to compute with [LibTorch's choice]", whole_number(1, kMostThreads));
}

void add_model_run(CLI::App& command, std::string& precision, std::string& device, int64_t& threads) {
  command.add_option("--precision", precision, "fp32, or bf16 (autocast)")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  add_device(command, device, threads);
}

}  // namespace longstride::cli
