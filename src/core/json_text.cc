// Bytes that are no UTF-8 travel through JSON as code points set aside for them (json_text.h).
#include "core/json_text.h"

#include "core/text_stream.h"

namespace longstride::core {
namespace {

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
