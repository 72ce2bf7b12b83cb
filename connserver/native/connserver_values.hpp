// Values that cross the border, for plugins in C++17: MessagePack, and what C++ types become in it.
//
// Guards one rule: what a reader is given is checked, byte by byte; what does not fit throws BadValue, which
// ends the call as the plugin's failure.
#ifndef CONNSERVER_VALUES_HPP
#define CONNSERVER_VALUES_HPP

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "connserver.h"

namespace cs {

/// Bytes from the host, or an argument, are not what they should be.
struct BadValue : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Bytes as a value; text is std::string.
struct Bytes {
    std::string data;
    bool operator==(const Bytes &other) const { return data == other.data; }
};

struct Member;
class Value;
using Array = std::vector<Value>;

/// A map in the order in which it was written.
class Fields {
public:
    Fields() = default;
    Fields(std::initializer_list<Member> members);
    /// The value of this name, nullptr if there is none.
    const Value *find(std::string_view name) const;
    /// The value of this name; BadValue if there is none.
    const Value &at(std::string_view name) const;
    /// Add a member, or replace it.
    void set(std::string name, Value value);
    void erase(std::string_view name);
    std::vector<Member>::const_iterator begin() const;
    std::vector<Member>::const_iterator end() const;
    std::size_t size() const;

private:
    std::vector<Member> members_;
};

// --- reading and writing ----------------------------------------------------------------------------------

/// Appends values to `out`, each in its shortest form.
class Writer {
public:
    std::string out;

    void nil() { byte(0xc0); }
    void boolean(bool truth) { byte(truth ? 0xc3 : 0xc2); }
    void integer(std::int64_t number) {
        if (number >= 0) return natural(static_cast<std::uint64_t>(number));
        if (number >= -32) return byte(static_cast<std::uint8_t>(number));
        if (number >= INT8_MIN) return big(0xd0, static_cast<std::uint64_t>(number), 1);
        if (number >= INT16_MIN) return big(0xd1, static_cast<std::uint64_t>(number), 2);
        if (number >= INT32_MIN) return big(0xd2, static_cast<std::uint64_t>(number), 4);
        big(0xd3, static_cast<std::uint64_t>(number), 8);
    }
    void natural(std::uint64_t number) {
        if (number < 0x80) return byte(static_cast<std::uint8_t>(number));
        if (number <= UINT8_MAX) return big(0xcc, number, 1);
        if (number <= UINT16_MAX) return big(0xcd, number, 2);
        if (number <= UINT32_MAX) return big(0xce, number, 4);
        big(0xcf, number, 8);
    }
    void number(double number) {
        std::uint64_t bits;
        std::memcpy(&bits, &number, sizeof bits);
        big(0xcb, bits, 8);
    }
    void text(std::string_view text) {
        const std::size_t size = text.size();
        if (size < 32) byte(static_cast<std::uint8_t>(0xa0 | size));
        else length(0xd9, size);
        out.append(text);
    }
    void bytes(std::string_view data) {
        length(0xc4, data.size());
        out.append(data);
    }
    void array(std::size_t count) { count < 16 ? byte(static_cast<std::uint8_t>(0x90 | count)) : many(0xdc, count); }
    void map(std::size_t count) { count < 16 ? byte(static_cast<std::uint8_t>(0x80 | count)) : many(0xde, count); }
    cs_view view() const { return {out.data(), out.size()}; }

private:
    void byte(std::uint8_t value) { out.push_back(static_cast<char>(value)); }
    void big(std::uint8_t mark, std::uint64_t value, int size) {
        byte(mark);
        while (size-- > 0) byte(static_cast<std::uint8_t>(value >> (8 * size)));
    }
    void length(std::uint8_t mark8, std::size_t size) {
        if (size <= UINT8_MAX) return big(mark8, size, 1);
        if (size <= UINT16_MAX) return big(static_cast<std::uint8_t>(mark8 + 1), size, 2);
        big(static_cast<std::uint8_t>(mark8 + 2), size, 4);
    }
    void many(std::uint8_t mark16, std::size_t count) {
        if (count <= UINT16_MAX) return big(mark16, count, 2);
        big(static_cast<std::uint8_t>(mark16 + 1), count, 4);
    }
};

/// Reads values from bytes that somebody else keeps. What is not as asked for throws BadValue.
class Reader {
public:
    explicit Reader(cs_view view) : at_(static_cast<const std::uint8_t *>(view.data)), end_(at_ + view.size) {}

    bool done() const { return at_ == end_; }
    bool is_nil() const { return at_ != end_ && *at_ == 0xc0; }
    void nil() { want(take() == 0xc0, "nil"); }
    bool boolean() {
        const auto mark = take();
        want(mark == 0xc2 || mark == 0xc3, "a boolean");
        return mark == 0xc3;
    }
    std::int64_t integer() {
        const auto mark = take();
        if (mark < 0x80) return mark;
        if (mark >= 0xe0) return static_cast<std::int8_t>(mark);
        switch (mark) {
        case 0xcc: case 0xcd: case 0xce: case 0xcf: {
            const auto number = big(1u << (mark - 0xcc));
            want(number <= INT64_MAX, "an integer of 64 bits");
            return static_cast<std::int64_t>(number);
        }
        case 0xd0: return static_cast<std::int8_t>(big(1));
        case 0xd1: return static_cast<std::int16_t>(big(2));
        case 0xd2: return static_cast<std::int32_t>(big(4));
        case 0xd3: return static_cast<std::int64_t>(big(8));
        default: throw BadValue("an integer is wanted");
        }
    }
    std::uint64_t natural() {
        if (at_ != end_ && *at_ == 0xcf) {
            ++at_;
            return big(8);
        }
        const auto number = integer();
        want(number >= 0, "a number that is not negative");
        return static_cast<std::uint64_t>(number);
    }
    double number() {
        if (at_ == end_ || (*at_ != 0xcb && *at_ != 0xca)) return static_cast<double>(integer());
        if (take() == 0xca) {
            const auto bits = static_cast<std::uint32_t>(big(4));
            float number;
            std::memcpy(&number, &bits, sizeof number);
            return number;
        }
        const auto bits = big(8);
        double number;
        std::memcpy(&number, &bits, sizeof number);
        return number;
    }
    std::string_view text() {
        const auto mark = take();
        if (mark >= 0xa0 && mark <= 0xbf) return some(mark & 31u);
        want(mark >= 0xd9 && mark <= 0xdb, "text");
        return some(big(1u << (mark - 0xd9)));
    }
    std::string_view bytes() {
        const auto mark = take();
        want(mark >= 0xc4 && mark <= 0xc6, "bytes");
        return some(big(1u << (mark - 0xc4)));
    }
    std::size_t array() {
        const auto mark = take();
        if (mark >= 0x90 && mark <= 0x9f) return mark & 15u;
        want(mark == 0xdc || mark == 0xdd, "an array");
        return counted(big(mark == 0xdc ? 2 : 4));
    }
    std::size_t map() {
        const auto mark = take();
        if (mark >= 0x80 && mark <= 0x8f) return mark & 15u;
        want(mark == 0xde || mark == 0xdf, "a map");
        return counted(big(mark == 0xde ? 2 : 4));
    }
    /// Any value.
    Value value(int levels = 64);
    /// Pass over a value.
    void skip(int levels = 64);

private:
    static void want(bool fits, const char *what) {
        if (!fits) throw BadValue(std::string(what) + " is wanted");
    }
    std::uint8_t take() {
        if (at_ == end_) throw BadValue("the bytes end too early");
        return *at_++;
    }
    std::uint64_t big(unsigned size) {
        if (static_cast<std::size_t>(end_ - at_) < size) throw BadValue("the bytes end too early");
        std::uint64_t value = 0;
        while (size-- > 0) value = value << 8 | *at_++;
        return value;
    }
    std::string_view some(std::uint64_t size) {
        if (static_cast<std::uint64_t>(end_ - at_) < size) throw BadValue("the bytes end too early");
        const auto *begin = reinterpret_cast<const char *>(at_);
        at_ += size;
        return {begin, static_cast<std::size_t>(size)};
    }
    std::size_t counted(std::uint64_t count) {
        // an element takes a byte at least: a count beyond that must not make anybody reserve memory
        if (static_cast<std::uint64_t>(end_ - at_) < count) throw BadValue("the bytes end too early");
        return static_cast<std::size_t>(count);
    }

    const std::uint8_t *at_;
    const std::uint8_t *end_;
};

// --- types ------------------------------------------------------------------------------------------------

/// How a C++ type crosses: its word in a declaration, writing it and reading it. Specialise it for your own.
template <class T, class = void> struct Type;

/// Any value.
class Value {
public:
    Value() = default;
    Value(std::nullptr_t) {}
    Value(const char *text) : kept_(std::string(text)) {}
    Value(std::string_view text) : kept_(std::string(text)) {}
    Value(Array items) : kept_(std::move(items)) {}
    Value(Fields members) : kept_(std::move(members)) {}
    template <class T, class = decltype(&Type<std::decay_t<T>>::word),
              class = std::enable_if_t<!std::is_same_v<std::decay_t<T>, Value>>>
    Value(const T &value) {
        if constexpr (std::is_same_v<T, bool>) kept_ = value;
        else if constexpr (std::is_integral_v<T>) kept_ = static_cast<std::int64_t>(value);
        else if constexpr (std::is_floating_point_v<T>) kept_ = static_cast<double>(value);
        else if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, Bytes>) kept_ = value;
        else {
            Writer writer;
            Type<T>::write(writer, value);
            *this = Reader(writer.view()).value();
        }
    }

    bool is_nil() const { return std::holds_alternative<std::monostate>(kept_); }
    /// What is held, if it is a T (bool, int64_t, double, std::string, Bytes, Array, Fields); else nullptr.
    template <class T> const T *as() const { return std::get_if<T>(&kept_); }
    void write(Writer &writer) const;

private:
    std::variant<std::monostate, bool, std::int64_t, double, std::string, Bytes, Array, Fields> kept_;
};

struct Member {
    std::string name;
    Value value;
};

inline Fields::Fields(std::initializer_list<Member> members) : members_(members) {}
inline std::vector<Member>::const_iterator Fields::begin() const { return members_.begin(); }
inline std::vector<Member>::const_iterator Fields::end() const { return members_.end(); }
inline std::size_t Fields::size() const { return members_.size(); }
inline const Value *Fields::find(std::string_view name) const {
    for (const auto &member : members_) if (member.name == name) return &member.value;
    return nullptr;
}
inline const Value &Fields::at(std::string_view name) const {
    if (const auto *found = find(name)) return *found;
    throw BadValue("there is no field " + std::string(name));
}
inline void Fields::set(std::string name, Value value) {
    for (auto &member : members_) if (member.name == name) { member.value = std::move(value); return; }
    members_.push_back({std::move(name), std::move(value)});
}
inline void Fields::erase(std::string_view name) {
    for (auto at = members_.begin(); at != members_.end(); ++at) if (at->name == name) { members_.erase(at); return; }
}

inline void write_fields(Writer &writer, const Fields &fields) {
    writer.map(fields.size());
    for (const auto &[name, value] : fields) {
        writer.text(name);
        value.write(writer);
    }
}

inline void Value::write(Writer &writer) const {
    if (const auto *truth = as<bool>()) writer.boolean(*truth);
    else if (const auto *integer = as<std::int64_t>()) writer.integer(*integer);
    else if (const auto *number = as<double>()) writer.number(*number);
    else if (const auto *text = as<std::string>()) writer.text(*text);
    else if (const auto *bytes = as<Bytes>()) writer.bytes(bytes->data);
    else if (const auto *items = as<Array>()) {
        writer.array(items->size());
        for (const auto &item : *items) item.write(writer);
    } else if (const auto *members = as<Fields>()) write_fields(writer, *members);
    else writer.nil();
}

template <> struct Type<bool> {
    static std::string word() { return "boolean"; }
    static void write(Writer &writer, bool value) { writer.boolean(value); }
    static bool read(Reader &reader) { return reader.boolean(); }
};
template <class T> struct Type<T, std::enable_if_t<std::is_integral_v<T> && !std::is_same_v<T, bool>>> {
    static std::string word() { return "integer"; }
    static void write(Writer &writer, T value) { writer.integer(static_cast<std::int64_t>(value)); }
    static T read(Reader &reader) {
        const auto number = reader.integer();
        const auto fitting = static_cast<T>(number);
        if (static_cast<std::int64_t>(fitting) != number || (fitting < T{}) != (number < 0)) {
            throw BadValue("the integer " + std::to_string(number) + " does not fit its type");
        }
        return fitting;
    }
};
template <class T> struct Type<T, std::enable_if_t<std::is_floating_point_v<T>>> {
    static std::string word() { return "number"; }
    static void write(Writer &writer, T value) { writer.number(static_cast<double>(value)); }
    static T read(Reader &reader) { return static_cast<T>(reader.number()); }
};
template <> struct Type<std::string> {
    static std::string word() { return "text"; }
    static void write(Writer &writer, const std::string &value) { writer.text(value); }
    static std::string read(Reader &reader) { return std::string(reader.text()); }
};
template <> struct Type<Bytes> {
    static std::string word() { return "bytes"; }
    static void write(Writer &writer, const Bytes &value) { writer.bytes(value.data); }
    static Bytes read(Reader &reader) { return {std::string(reader.bytes())}; }
};
template <> struct Type<Value> {
    static std::string word() { return "any"; }
    static void write(Writer &writer, const Value &value) { value.write(writer); }
    static Value read(Reader &reader) { return reader.value(); }
};
template <class T> struct Type<std::vector<T>> {
    static std::string word() { return "list of " + Type<T>::word(); }
    static void write(Writer &writer, const std::vector<T> &value) {
        writer.array(value.size());
        for (const auto &item : value) Type<T>::write(writer, item);
    }
    static std::vector<T> read(Reader &reader) {
        std::vector<T> value;
        for (auto left = reader.array(); left > 0; --left) value.push_back(Type<T>::read(reader));
        return value;
    }
};
template <class T> struct Type<std::map<std::string, T>> {
    static std::string word() { return "map of " + Type<T>::word(); }
    static void write(Writer &writer, const std::map<std::string, T> &value) {
        writer.map(value.size());
        for (const auto &[name, item] : value) {
            writer.text(name);
            Type<T>::write(writer, item);
        }
    }
    static std::map<std::string, T> read(Reader &reader) {
        std::map<std::string, T> value;
        for (auto left = reader.map(); left > 0; --left) {
            std::string name(reader.text());
            value.insert_or_assign(std::move(name), Type<T>::read(reader));
        }
        return value;
    }
};
template <class T> struct Type<std::optional<T>> {
    static std::string word() { return Type<T>::word() + " or null"; }
    static void write(Writer &writer, const std::optional<T> &value) {
        if (value) Type<T>::write(writer, *value);
        else writer.nil();
    }
    static std::optional<T> read(Reader &reader) {
        if (reader.is_nil()) return reader.nil(), std::nullopt;
        return Type<T>::read(reader);
    }
};

inline Value Reader::value(int levels) {
    if (at_ == end_) throw BadValue("the bytes end too early");
    if (levels == 0) throw BadValue("a value is nested too deeply");
    const auto mark = *at_;
    if (mark == 0xc0) return nil(), Value();
    if (mark == 0xc2 || mark == 0xc3) return Value(boolean());
    if (mark == 0xca || mark == 0xcb) return Value(number());
    if ((mark >= 0xa0 && mark <= 0xbf) || (mark >= 0xd9 && mark <= 0xdb)) return Value(text());
    if (mark >= 0xc4 && mark <= 0xc6) return Value(Bytes{std::string(bytes())});
    if ((mark >= 0x90 && mark <= 0x9f) || mark == 0xdc || mark == 0xdd) {
        Array items;
        for (auto left = array(); left > 0; --left) items.push_back(value(levels - 1));
        return Value(std::move(items));
    }
    if ((mark >= 0x80 && mark <= 0x8f) || mark == 0xde || mark == 0xdf) {
        Fields members;
        for (auto left = map(); left > 0; --left) {
            std::string name(text());
            members.set(std::move(name), value(levels - 1));
        }
        return Value(std::move(members));
    }
    return Value(integer());
}

inline void Reader::skip(int levels) {
    if (at_ == end_) throw BadValue("the bytes end too early");
    if (levels == 0) throw BadValue("a value is nested too deeply");
    const auto mark = *at_;
    if ((mark >= 0x90 && mark <= 0x9f) || mark == 0xdc || mark == 0xdd) {
        for (auto left = array(); left > 0; --left) skip(levels - 1);
    } else if ((mark >= 0x80 && mark <= 0x8f) || mark == 0xde || mark == 0xdf) {
        for (auto left = map(); left > 0; --left) text(), skip(levels - 1);
    } else value(levels);
}

}  // namespace cs

#endif
