// Declaring a plugin in C++17: from functions and structs to the table that the host reads.
//
// Guards the rule that what is declared is what runs: types of arguments and fields are read from the C++
// types, once, when the library is loaded.
#ifndef CONNSERVER_PLUGIN_HPP
#define CONNSERVER_PLUGIN_HPP

#include <cxxabi.h>

#include <cstdlib>
#include <tuple>
#include <typeinfo>

#include "connserver.hpp"

namespace cs {

/// The name of an argument, with a default: plugin.method("a.b", f, "x", cs::optional("y", 0));
struct Argument {
    Argument(const char *name) : name(name) {}
    Argument(std::string name, Value fallback) : name(std::move(name)), fallback(std::move(fallback)), given(true) {}
    std::string name;
    Value fallback;
    bool given = false;
};
inline Argument optional(std::string name, Value fallback) { return {std::move(name), std::move(fallback)}; }

namespace detail {

/// What a function takes and gives.
template <class F> struct Shape : Shape<decltype(&F::operator())> {};
template <class R, class... A> struct Shape<R(A...)> {
    using Return = R;
    using Arguments = std::tuple<A...>;
};
template <class R, class... A> struct Shape<R (*)(A...)> : Shape<R(A...)> {};
template <class C, class R, class... A> struct Shape<R (C::*)(A...) const> : Shape<R(A...)> {};
template <class C, class R, class... A> struct Shape<R (C::*)(A...)> : Shape<R(A...)> {};

template <class T> constexpr bool is_object = std::is_base_of_v<Object, std::decay_t<T>> && std::is_lvalue_reference_v<T>;
template <class T> constexpr bool is_result = std::is_same_v<std::decay_t<T>, Result>;

template <std::size_t I, class Tuple, bool there = (I < std::tuple_size_v<Tuple>)> struct At {
    using type = void;
};
template <std::size_t I, class Tuple> struct At<I, Tuple, true> {
    using type = std::tuple_element_t<I, Tuple>;
};

/// (Context &, me?, Result?, arguments…)
template <class F> struct Call {
    using Arguments = typename Shape<F>::Arguments;
    using Return = typename Shape<F>::Return;
    static_assert(std::is_same_v<typename At<0, Arguments>::type, Context &>, "the first argument is cs::Context &");
    static constexpr bool has_me = is_object<typename At<1, Arguments>::type>;
    static constexpr std::size_t result_at = has_me ? 2 : 1;
    static constexpr bool has_result = is_result<typename At<result_at, Arguments>::type>;
    static constexpr std::size_t first = result_at + (has_result ? 1 : 0);
    static constexpr std::size_t count = std::tuple_size_v<Arguments> - first;
    template <std::size_t I> using Of = std::decay_t<typename At<first + I, Arguments>::type>;
    using Me = std::decay_t<std::conditional_t<has_me, typename At<1, Arguments>::type, Object &>>;

    template <std::size_t... I> static std::vector<std::string> words(std::index_sequence<I...>) {
        return {Type<Of<I>>::word()...};
    }

    template <std::size_t... I> static void run(F &function, Context &ctx, Reader reader, std::index_sequence<I...>) {
        if (reader.array() != count + (has_result ? 1 : 0)) throw BadValue("other arguments than were declared");
        // in braces, so that they are read from left to right
        std::tuple<Of<I>...> given{Type<Of<I>>::read(reader)...};
        if constexpr (has_me && has_result) {
            Result result = Type<Result>::read(reader);
            answer(ctx, [&]() -> Return { return function(ctx, ctx.target<Me>(), result, std::get<I>(given)...); });
        } else if constexpr (has_me) {
            answer(ctx, [&]() -> Return { return function(ctx, ctx.target<Me>(), std::get<I>(given)...); });
        } else {
            answer(ctx, [&]() -> Return { return function(ctx, std::get<I>(given)...); });
        }
    }

    template <class G> static void answer(Context &ctx, G call) {
        if constexpr (std::is_void_v<Return>) {
            call();
        } else if constexpr (std::is_same_v<Return, Reply>) {
            ctx.check(ctx.host().reply_of_call(ctx.raw(), call().call));
        } else if constexpr (std::is_same_v<Return, Result>) {
            call();
            ctx.check(ctx.host().reply_of_result(ctx.raw()));
        } else {
            Writer packed;
            if constexpr (std::is_same_v<Return, Fields>) {
                write_fields(packed, call());
            } else {
                packed.map(1);
                packed.text("result");
                Type<std::decay_t<Return>>::write(packed, call());
            }
            ctx.check(ctx.host().reply(ctx.raw(), packed.view()));
        }
    }
};

inline std::string type_of(const std::exception &error) {
    int status = 0;
    char *name = abi::__cxa_demangle(typeid(error).name(), nullptr, nullptr, &status);
    std::string told = status == 0 && name ? name : typeid(error).name();
    std::free(name);
    return told;
}

/// Run a call's part in C++; nothing is thrown further.
template <class G> std::int32_t at_the_border(const cs_host &host, cs_context *raw, G part) noexcept {
    try {
        try {
            part();
            return CS_OK;
        } catch (const Refused &refused) {
            return host.refuse(raw, view(refused.code), view(refused.reason)) == CS_OK ? CS_REFUSED : CS_FAILED;
        } catch (const HostFailed &) {
            return CS_FAILED;
        } catch (const std::exception &error) {
            const std::string told = type_of(error) + ": " + error.what();
            host.fail(raw, view(told));
        } catch (...) {
            host.fail(raw, view("something was thrown that is no std::exception"));
        }
    } catch (...) {
        // no memory to say it in: the host says that it was not said
    }
    return CS_FAILED;
}

}  // namespace detail

class Plugin;

/// A declared method; says more about itself in a chain: .roles({"builder"}).rate(20)
class Method {
public:
    /// One of these roles is needed.
    Method &roles(std::vector<std::string> roles) { return roles_ = std::move(roles), *this; }
    /// Calls per second and session.
    Method &rate(double hz) { return rate_hz_ = hz, *this; }
    /// An internal method that makes the named object it is called on, if that is missing.
    Method &create() { return flags_ |= CS_CREATE, *this; }

private:
    friend class Plugin;
    static std::int32_t run(void *data, cs_context *raw, std::uint64_t me, cs_view arguments) noexcept {
        const auto &method = *static_cast<Method *>(data);
        return detail::at_the_border(*method.host_, raw, [&] {
            Context context(*method.host_, raw, me, method.plugin_);
            method.body_(context, Reader(arguments));
            context.flush();
        });
    }
    const cs_host *host_ = nullptr;
    const char *plugin_ = "";
    std::uint32_t sort_ = 0, flags_ = 0;
    std::string name_, kind_, where_;
    std::vector<std::string> roles_, words_, fallbacks_;
    std::vector<Argument> arguments_;
    double rate_hz_ = 0;
    std::function<void(Context &, Reader)> body_;
    std::vector<cs_argument> argument_table_;
    std::vector<const char *> role_table_;
};

/// A plugin, being declared in CONNSERVER_PLUGIN.
class Plugin {
public:
    Plugin(const cs_host *host, const char *name, const char *version) : host_(host), name_(name), version_(version) {}
    Plugin(const Plugin &) = delete;

    /// Declare a struct as a kind of object.
    template <class K> void kind() {
        auto &made = kinds_.emplace_back();
        made.table = {sizeof(cs_kind), K::schema, K::kind, nullptr, 0};
        K fresh;
        auto field = [&](const char *name, auto &value, std::uint32_t flags = 0) {
            using T = std::decay_t<decltype(value)>;
            Writer packed;
            if (!(flags & required)) Type<T>::write(packed, value);
            const auto &word = texts_.emplace_back(Type<T>::word());
            const auto &fallback = texts_.emplace_back(std::move(packed.out));
            made.fields.push_back({sizeof(cs_field), flags & ~required, name, word.c_str(),
                                   flags & required ? cs_view{} : view(fallback)});
        };
        fresh.fields(field);
    }

    /// Let clients call this as `msg:name`; after the function come the names of its arguments.
    template <class F, class... Names> Method &method(std::string name, F function, Names... names) {
        return add(CS_CLIENT, std::move(name), std::move(function), {Argument(names)...});
    }
    /// For calls, `then` and timers of plugins; no client can reach it.
    template <class F, class... Names> Method &internal(std::string name, F function, Names... names) {
        return add(CS_INTERNAL, std::move(name), std::move(function), {Argument(names)...});
    }
    /// Run `hz` times a second in each partition with objects of the kind whose indexed fields are so.
    template <class K, class F> Method &every(std::string name, double hz, F function, const Fields &where = {}) {
        auto &made = add(CS_EVERY, std::move(name), std::move(function), {}).rate(hz);
        made.kind_ = K::kind;
        Writer packed;
        if (where.size()) write_fields(packed, where);
        made.where_ = std::move(packed.out);
        return made;
    }
    template <class F> void on_join(std::string name, F function) { add(CS_ON_JOIN, std::move(name), std::move(function), {}); }
    template <class F> void on_leave(std::string name, F function) { add(CS_ON_LEAVE, std::move(name), std::move(function), {}); }
    template <class F> void on_expire(std::string name, F function) { add(CS_ON_EXPIRE, std::move(name), std::move(function), {}); }

    /// How the fields of schema to-1 become those of `to`; with `down` the way back from to+1.
    void migrate(std::string kind, std::uint32_t to, std::function<Fields(Fields)> change, bool down = false) {
        migrations_.push_back({host_, std::move(kind), to, down, std::move(change)});
    }

    /// What the host reads; points into this object.
    const cs_plugin *table() {
        if (table_.size != 0) return &table_;
        for (auto &kind : kinds_) {
            kind.table.fields = kind.fields.data();
            kind.table.field_count = static_cast<std::uint32_t>(kind.fields.size());
            kind_table_.push_back(kind.table);
        }
        for (auto &method : methods_) method_table_.push_back(entry(method));
        for (auto &one : migrations_) {
            migration_table_.push_back({sizeof(cs_migration), one.to, one.down, 0, one.kind.c_str(), &migrated, &one});
        }
        table_ = {sizeof(cs_plugin), CS_ABI, CS_ABI, count(kind_table_), count(method_table_), count(migration_table_),
                  name_, version_, kind_table_.data(), method_table_.data(), migration_table_.data()};
        return &table_;
    }

private:
    struct Kind {
        cs_kind table;
        std::vector<cs_field> fields;
    };
    struct Migration {
        const cs_host *host;
        std::string kind;
        std::uint32_t to;
        bool down;
        std::function<Fields(Fields)> change;
    };

    template <class T> static std::uint32_t count(const T &items) { return static_cast<std::uint32_t>(items.size()); }

    template <class F> Method &add(std::uint32_t sort, std::string name, F function, std::vector<Argument> arguments) {
        using Call = detail::Call<F>;
        if (arguments.size() != Call::count) {
            throw std::invalid_argument(name + " takes " + std::to_string(Call::count) + " arguments, and " +
                                        std::to_string(arguments.size()) + " are named");
        }
        auto &made = methods_.emplace_back();
        made.host_ = host_;
        made.plugin_ = name_;
        made.sort_ = sort;
        made.flags_ = Call::has_result ? CS_RESULT : 0;
        made.name_ = std::move(name);
        made.kind_ = Call::Me::kind;
        made.words_ = Call::words(std::make_index_sequence<Call::count>());
        made.arguments_ = std::move(arguments);
        made.body_ = [function](Context &context, Reader reader) mutable {
            Call::run(function, context, reader, std::make_index_sequence<Call::count>());
        };
        return made;
    }

    static cs_method entry(Method &method) {
        for (std::size_t i = 0; i < method.arguments_.size(); ++i) {
            Writer packed;
            if (method.arguments_[i].given) method.arguments_[i].fallback.write(packed);
            method.fallbacks_.push_back(std::move(packed.out));
        }
        for (std::size_t i = 0; i < method.arguments_.size(); ++i) {
            const auto &argument = method.arguments_[i];
            method.argument_table_.push_back({sizeof(cs_argument), 0, argument.name.c_str(), method.words_[i].c_str(),
                                              argument.given ? view(method.fallbacks_[i]) : cs_view{}});
        }
        for (const auto &role : method.roles_) method.role_table_.push_back(role.c_str());
        method.role_table_.push_back(nullptr);
        return {sizeof(cs_method), method.sort_, method.flags_, count(method.argument_table_), method.name_.c_str(),
                method.kind_.empty() ? nullptr : method.kind_.c_str(), method.argument_table_.data(),
                method.role_table_.data(), method.rate_hz_, view(method.where_), &Method::run, &method};
    }

    static std::int32_t migrated(void *data, cs_context *raw, std::uint64_t, cs_view arguments) noexcept {
        const auto &migration = *static_cast<Migration *>(data);
        return detail::at_the_border(*migration.host, raw, [&] {
            Reader reader(arguments);
            if (reader.array() != 1) throw BadValue("a migration gets one map of fields");
            const Value value = reader.value();
            const auto *fields = value.as<Fields>();
            if (fields == nullptr) throw BadValue("a migration gets one map of fields");
            Writer packed;
            write_fields(packed, migration.change(*fields));
            if (migration.host->reply(raw, packed.view()) != CS_OK) throw HostFailed();
        });
    }

    const cs_host *host_;
    const char *name_, *version_;
    std::deque<Kind> kinds_;
    std::deque<Method> methods_;
    std::deque<Migration> migrations_;
    std::deque<std::string> texts_;
    std::vector<cs_kind> kind_table_;
    std::vector<cs_method> method_table_;
    std::vector<cs_migration> migration_table_;
    cs_plugin table_{};
};

}  // namespace cs

/// Once per plugin, with what plugin.toml says: CONNSERVER_PLUGIN("name", "version") { plugin.kind<…>(); … }
#define CONNSERVER_PLUGIN(NAME, VERSION)                                                              \
    static void connserver_declare(cs::Plugin &plugin);                                               \
    extern "C" CS_EXPORT const cs_plugin *connserver_plugin(const cs_host *host) {                    \
        try {                                                                                         \
            static cs::Plugin *plugin = nullptr;                                                      \
            if (plugin == nullptr) {                                                                  \
                /* never destroyed: methods may run until the process ends */                         \
                auto made = std::make_unique<cs::Plugin>(host, NAME, VERSION);                        \
                connserver_declare(*made);                                                            \
                plugin = made.release();                                                              \
            }                                                                                         \
            return plugin->table();                                                                   \
        } catch (const std::exception &error) {                                                       \
            std::fprintf(stderr, "plugin %s %s cannot be declared: %s\n", NAME, VERSION, error.what()); \
        } catch (...) {                                                                               \
            std::fprintf(stderr, "plugin %s %s cannot be declared\n", NAME, VERSION);                 \
        }                                                                                             \
        return nullptr;                                                                               \
    }                                                                                                 \
    static void connserver_declare(cs::Plugin &plugin)

#endif
