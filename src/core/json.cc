// Builds a value from nlohmann's events, so that every key and number is seen before it is kept: its own builder takes
// the last of two equal keys, makes a double of an integer that does not fit, and looks through all keys of an object
// at every insertion. Bytes that are no UTF-8 travel through JSON as code points set aside for them.
#include "core/json.h"

#include <fmt/format.h>

#include <cerrno>
#include <fstream>
#include <system_error>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/refuse.h"
#include "core/text_stream.h"

namespace longstride::core {
namespace {

class Builder {
 public:
  explicit Builder(std::string_view what) : what_(what) {}

  Json take() { return std::move(root_); }

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(int64_t value) { return put(value); }
  bool number_unsigned(uint64_t value) { return put(value); }
  bool number_float(double value, const std::string& text) {
    // The lexer hands over integers so that it could not read as such.
    if (text.find_first_of(".eE") == std::string::npos) {
      refuse_here("must fit 64 bits", text, "write it with a fraction or an exponent if it is no integer");
    }
    return put(value);
  }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }  // not in text

  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    Level& level = open_.back();
    level.key = name;
    if (!level.keys.insert(name).second) refuse_here("must be given once", "it twice", "leave one of them out");
    return true;
  }

  bool parse_error(size_t, const std::string& last_token, const nlohmann::detail::exception& error) {
    constexpr int kNumberOutOfRange = 406;
    if (error.id == kNumberOutOfRange) refuse_here("must be a number below 1.8e308", last_token, "");
    std::string_view reason = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    if (const size_t end = reason.find("] "); end != std::string_view::npos) reason.remove_prefix(end + 2);
    refuse(what_, "must be JSON", reason);
  }

 private:
  struct Level {
    Json* value;
    std::string key;                       // of an object: the one whose value comes next
    std::unordered_set<std::string> keys;  // of an object: those that were given
  };

  // "pattern blocks[2].density"
  [[noreturn]] void refuse_here(std::string_view expected, std::string_view got, std::string_view remedy) const {
    std::string where;
    for (const Level& level : open_) {
      if (level.value->is_array()) {
        // Of the innermost list: the value that comes next.
        where += fmt::format("[{}]", level.value->size() - (&level == &open_.back() ? 0 : 1));
      } else {
        where += (where.empty() ? "" : ".") + level.key;
      }
    }
    refuse(where.empty() ? std::string(what_) : fmt::format("{}: {}", what_, where), expected, got, remedy);
  }

  template <class T>
  Json* add(T&& value) {
    if (open_.empty()) {
      root_ = std::forward<T>(value);
      return &root_;
    }
    Level& level = open_.back();
    if (level.value->is_array()) {
      auto& list = level.value->get_ref<Json::array_t&>();
      return &list.emplace_back(std::forward<T>(value));
    }
    // The key is known to be a further one: appended without the map's own search.
    Json::object_t::Container& members = level.value->get_ref<Json::object_t&>();
    return &members.emplace_back(level.key, std::forward<T>(value)).second;
  }

  template <class T>
  bool put(T&& value) {
    add(std::forward<T>(value));
    return true;
  }

  bool open(Json value) {
    if (open_.size() == kMostJsonDepth) {
      refuse(what_, fmt::format("must be nested at most {} levels deep", kMostJsonDepth), "more");
    }
    open_.push_back({add(std::move(value)), {}, {}});
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view what_;
  Json root_;
  std::vector<Level> open_;
};

[[noreturn]] void refuse_length(std::string_view what, size_t most_bytes) {
  refuse(what, fmt::format("must be at most {} bytes long", most_bytes), "more");
}

// U+EF80 to U+EFFF are EE (BE | BF) (80 to BF) in UTF-8.
constexpr unsigned char kLead = 0xee, kSecond = 0xbe;

bool stands_for_a_byte(std::string_view character) {
  return character.size() == 3 && static_cast<unsigned char>(character[0]) == kLead &&
         static_cast<unsigned char>(character[1]) >= kSecond;
}

std::string character_of(unsigned char byte) {
  return {static_cast<char>(kLead), static_cast<char>(kSecond | ((byte >> 6) & 1)),
          static_cast<char>(0x80 | (byte & 0x3f))};
}

template <class Change>
nlohmann::json changed(const nlohmann::json& json, const Change& change) {
  if (json.is_string()) return change(json.get_ref<const std::string&>());
  if (json.is_array()) {
    nlohmann::json list = nlohmann::json::array();
    for (const nlohmann::json& entry : json) list.push_back(changed(entry, change));
    return list;
  }
  if (json.is_object()) {
    nlohmann::json object = nlohmann::json::object();
    for (const auto& [key, value] : json.items()) object[change(key)] = changed(value, change);
    return object;
  }
  return json;
}

}  // namespace

Json parse_json(std::string_view what, std::string_view text, size_t most_bytes) {
  if (text.size() > most_bytes) refuse_length(what, most_bytes);
  // To the lexer a zero byte is the end, whatever follows.
  if (const size_t zero = text.find('\0'); zero != text.npos) {
    refuse(what, "must be JSON", fmt::format("a zero byte at byte {}", zero));
  }
  Builder builder(what);
  Json::sax_parse(text, &builder);
  return builder.take();
}

Json read_json(std::string_view what, const std::filesystem::path& path, size_t most_bytes) {
  const std::string name = fmt::format("{} '{}'", what, path.string());
  // A folder opens like a file, and reading it fails without a reason.
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) refuse(name, "must be a file of JSON", "a folder");
  std::ifstream file(path, std::ios::binary);
  if (!file) refuse(name, "must be a file that can be read", std::generic_category().message(errno));
  std::string text;
  constexpr size_t kChunkBytes = 1 << 16;
  while (file && text.size() <= most_bytes) {
    const size_t before = text.size();
    text.resize(before + kChunkBytes);
    file.read(text.data() + before, kChunkBytes);
    text.resize(before + static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) refuse(name, "must be a file that can be read", "an error while reading it");
  return parse_json(name, text, most_bytes);
}

std::string shown(const Json& value) { return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace)); }

std::string utf8_of(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    const size_t size = character_size(bytes);
    if (size > 0 && !stands_for_a_byte(bytes.substr(0, size))) {
      text += bytes.substr(0, size);
      bytes.remove_prefix(size);
      continue;
    }
    text += character_of(static_cast<unsigned char>(bytes.front()));
    bytes.remove_prefix(1);
  }
  return text;
}

std::string bytes_of(std::string_view utf8) {
  std::string bytes;
  while (!utf8.empty()) {
    if (stands_for_a_byte(utf8.substr(0, 3))) {
      const auto second = static_cast<unsigned char>(utf8[1]), third = static_cast<unsigned char>(utf8[2]);
      bytes += static_cast<char>(0x80 | ((second & 1) << 6) | (third & 0x3f));
      utf8.remove_prefix(3);
      continue;
    }
    bytes += utf8.front();
    utf8.remove_prefix(1);
  }
  return bytes;
}

std::string json_text(const nlohmann::json& json, int indent) { return changed(json, utf8_of).dump(indent); }

nlohmann::json with_bytes(const nlohmann::json& parsed) { return changed(parsed, bytes_of); }

}  // namespace longstride::core
