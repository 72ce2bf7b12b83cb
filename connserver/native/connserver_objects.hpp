// What calls are about, for plugins in C++17: objects and references to them, refusals and results.
//
// Guards the rule that a write to an object is never missed: an object that a call was given remembers the
// packed form of its fields, and knows at the end which of them are others now.
#ifndef CONNSERVER_OBJECTS_HPP
#define CONNSERVER_OBJECTS_HPP

#include <cstdio>

#include "connserver_values.hpp"

namespace cs {

/// The rules say no: `code` is the plugin's own word, "topic.reason".
class Refused : public std::exception {
public:
    explicit Refused(std::string code, std::string reason = "") : code(std::move(code)), reason(std::move(reason)) {}
    const char *what() const noexcept override { return code.c_str(); }
    std::string code, reason;
};

/// A function of the host has failed, and with it the call. Let it through.
struct HostFailed : std::exception {
    const char *what() const noexcept override { return "a function of the host failed"; }
};

/// The base of kinds. `kind` and, if not 1, `schema` are static members; `fields` names what is kept:
///     template <class F> void fields(F &field) { field("zone", zone); field("x", x, cs::transient); }
struct Object {
    static constexpr const char *kind = "";
    static constexpr std::uint32_t schema = 1;
    /// The 64-bit id, and the name it was made from (the user's for a user object, else mostly "").
    std::uint64_t oid = 0;
    std::string named;
    template <class F> void fields(F &) {}
};

constexpr std::uint32_t transient = CS_TRANSIENT, indexed = CS_INDEX, unique = CS_UNIQUE;
/// A field that has to be given when an object is made.
constexpr std::uint32_t required = 1u << 31;

/// The id of an object, here or in any other partition. `named`: for one that may have to be made.
template <class K = Object> struct Ref {
    std::uint64_t oid = 0;
    std::string named;
    Ref() = default;
    explicit Ref(std::uint64_t oid, std::string named = "") : oid(oid), named(std::move(named)) {}
    Ref(const K &object) : oid(object.oid) {}
    template <class L, class = std::enable_if_t<std::is_same_v<K, Object> && !std::is_same_v<L, Object>>>
    Ref(const Ref<L> &other) : oid(other.oid), named(other.named) {}
    bool operator==(const Ref &other) const { return oid == other.oid; }
    std::string text() const {
        char digits[17];
        std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(oid));
        return digits;
    }
};

template <class K> struct Type<Ref<K>> {
    static std::string word() { return "reference"; }
    static void write(Writer &writer, const Ref<K> &value) { writer.text(value.text()); }
    static Ref<K> read(Reader &reader) {
        const auto text = reader.text();
        std::uint64_t oid = 0;
        if (text.size() != 16) throw BadValue("a reference is 16 hex digits");
        for (const char digit : text) {
            const char *digits = "0123456789abcdef";
            const auto *found = digit ? std::strchr(digits, digit) : nullptr;
            if (found == nullptr) throw BadValue("a reference is 16 hex digits");
            oid = oid << 4 | static_cast<std::uint64_t>(found - digits);
        }
        return Ref<K>(oid);
    }
};

/// The promise of a call's answer; return it to answer the client with it.
struct Reply {
    std::uint32_t call;
};

/// How a call ended, in a `then`; return it to answer as if the callee had been called directly.
struct Result {
    bool ok = false;
    Value value;
    std::string error, reason, code;
};

template <> struct Type<Result> {
    static Result read(Reader &reader) {
        Result result;
        for (auto left = reader.map(); left > 0; --left) {
            const auto name = reader.text();
            if (name == "ok") result.ok = reader.boolean();
            else if (name == "value") result.value = reader.value();
            else if (name == "error") result.error = Type<std::string>::read(reader);
            else if (name == "reason") result.reason = Type<std::string>::read(reader);
            else if (name == "code") result.code = Type<std::optional<std::string>>::read(reader).value_or("");
            else reader.skip();
        }
        return result;
    }
};

inline cs_view view(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view text(cs_view view) { return {static_cast<const char *>(view.data), view.size}; }

// --- objects of a call ------------------------------------------------------------------------------------

/// An object that a call was given, and the packed fields that it had then.
class Held {
public:
    virtual ~Held() = default;
    virtual Object &object() = 0;
    virtual const char *kind() const = 0;
    /// Append each field to `writer`, noting where it ends.
    virtual void pack(Writer &writer, std::vector<std::size_t> &ends, std::vector<const char *> &names) = 0;
    void remember() {
        Writer writer;
        writer.out.reserve(64);
        ends_.clear();
        names_.clear();
        pack(writer, ends_, names_);
        before_ = std::move(writer.out);
    }
    /// Append [oid, {what is another now}] if there is any.
    bool changes(Writer &writer) {
        Writer now, changed;
        std::vector<std::size_t> ends;
        std::vector<const char *> names;
        now.out.reserve(before_.size() + 16);
        ends.reserve(ends_.size());
        names.reserve(ends_.size());
        pack(now, ends, names);
        if (now.out == before_) return false;
        std::size_t count = 0;
        for (std::size_t i = 0; i < ends.size(); ++i) {
            const auto old = part(before_, ends_, i), fresh = part(now.out, ends, i);
            if (old == fresh) continue;
            changed.text(names[i]);
            changed.out.append(fresh);
            ++count;
        }
        writer.array(2);
        writer.natural(object().oid);
        writer.map(count);
        writer.out.append(changed.out);
        before_ = std::move(now.out);
        ends_ = std::move(ends);
        return true;
    }

private:
    static std::string_view part(const std::string &all, const std::vector<std::size_t> &ends, std::size_t i) {
        const auto begin = i == 0 ? 0 : ends[i - 1];
        return std::string_view(all).substr(begin, ends[i] - begin);
    }
    std::string before_;
    std::vector<std::size_t> ends_;
    std::vector<const char *> names_;
};

template <class K> class HeldAs final : public Held {
public:
    K one;
    Object &object() override { return one; }
    const char *kind() const override { return K::kind; }
    void pack(Writer &writer, std::vector<std::size_t> &ends, std::vector<const char *> &names) override {
        auto field = [&](const char *name, auto &value, std::uint32_t = 0) {
            Type<std::decay_t<decltype(value)>>::write(writer, value);
            ends.push_back(writer.out.size());
            names.push_back(name);
        };
        one.fields(field);
    }
    void unpack(Reader &reader) {
        for (auto left = reader.map(); left > 0; --left) {
            const auto key = reader.text();
            bool known = false;
            auto field = [&](const char *name, auto &value, std::uint32_t = 0) {
                if (known || key != name) return;
                value = Type<std::decay_t<decltype(value)>>::read(reader);
                known = true;
            };
            one.fields(field);
            if (!known) reader.skip();
        }
    }
};

}  // namespace cs

#endif
