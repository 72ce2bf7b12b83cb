// Plugins in C++17: kinds are structs, methods are functions with typed arguments.
//
//     struct Player : cs::Object {
//         static constexpr const char *kind = "player";
//         std::int64_t gold = 10;
//         template <class F> void fields(F &field) { field("gold", gold); }
//     };
//     cs::Fields spend(cs::Context &ctx, Player &me, std::int64_t gold) {
//         if (gold < 1 || gold > me.gold) throw cs::Refused("game.too_poor");
//         me.gold -= gold;
//         return {{"left", me.gold}};
//     }
//     CONNSERVER_PLUGIN("game", "1.0.0") {
//         plugin.kind<Player>();
//         plugin.method("game.spend", spend, "gold");
//     }
//
// Guards two rules. A write to an object is never missed: what a call was given of objects is compared with
// what they are when it ends, and what differs is written. No exception leaves the plugin: Refused is the
// client's answer, everything else the plugin's failure, and in both nothing of the call happened.
//
// Objects are lent for the call; keep a Ref. A library has no state of its own that counts: it may be
// another process's library that gets the next call. Caches are fine.
#ifndef CONNSERVER_HPP
#define CONNSERVER_HPP

#include <deque>
#include <functional>
#include <memory>
#include <unordered_map>

#include "connserver_objects.hpp"

namespace cs {

// --- the context ------------------------------------------------------------------------------------------

class Room;

/// What a method may do; it ends with the call.
class Context {
public:
    Context(const cs_host &host, cs_context *raw, std::uint64_t me, const char *plugin)
        : host_(host), raw_(raw), me_(me), plugin_(plugin) {}
    Context(const Context &) = delete;

    // what is known of the call
    std::uint64_t me() const { return me_; }
    double now() { return about().now; }
    double dt() { return about().dt; }
    std::uint32_t partition() { return about().partition; }
    std::uint64_t session() { return about().session; }
    Ref<> user() { return Ref<>(about().user); }
    std::string user_name() { return std::string(text(about().user_name)); }
    std::vector<std::string> roles() {
        Reader reader(about().roles);
        return Type<std::vector<std::string>>::read(reader);
    }
    /// Seeded by the cluster: the same in a test that is run again.
    double uniform(double from, double to) {
        double number = 0;
        check(host_.random(raw_, &number));
        return from + (to - from) * number;
    }

    // objects of this partition
    /// The object, or nullptr if there is none of this kind.
    template <class K> K *get(const Ref<K> &ref) {
        const auto found = held_.find(ref.oid);
        if (found != held_.end()) return as<K>(found->second.get());
        cs_object object{};
        const auto status = host_.get(raw_, ref.oid, &object);
        if (status == CS_NONE) return nullptr;
        check(status);
        if (text(object.kind) != K::kind) return nullptr;
        Reader reader(object.fields);
        return hold<K>(ref.oid, text(object.named), reader);
    }
    /// Make an object; with a name, its id is made from its kind and that.
    template <class K> K &create(K fresh, const std::string &name = "") {
        auto held = std::make_unique<HeldAs<K>>();
        held->one = std::move(fresh);
        Writer values;
        std::vector<std::size_t> ends;
        std::vector<const char *> names;
        held->pack(values, ends, names);
        Writer fields;
        fields.map(names.size());
        for (std::size_t i = 0; i < names.size(); ++i) {
            fields.text(names[i]);
            const auto begin = i == 0 ? 0 : ends[i - 1];
            fields.out.append(values.out, begin, ends[i] - begin);
        }
        check(host_.create(raw_, view(K::kind), view(name), fields.view(), &held->one.oid));
        held->one.named = name;
        held->remember();
        auto &one = held->one;
        held_[one.oid] = std::move(held);
        return one;
    }
    /// Remove an object; it must not be used afterwards.
    void remove(const Object &object) {
        const auto oid = object.oid;
        held_.erase(oid);
        check(host_.remove(raw_, oid));
    }
    /// The objects of a kind in this partition whose fields have these values, in the order of ids.
    template <class K> std::vector<K *> where(const Fields &match = {}) {
        flush();
        Writer wanted;
        write_fields(wanted, match);
        cs_view objects{};
        check(host_.where(raw_, view(K::kind), wanted.view(), &objects));
        Reader reader(objects);
        std::vector<K *> all;
        for (auto left = reader.array(); left > 0; --left) {
            if (reader.array() != 3) throw BadValue("an object is [oid, name, fields]");
            const auto oid = reader.natural();
            const auto named = reader.text();
            const auto known = held_.find(oid);
            if (known != held_.end()) reader.skip();
            K *one = known != held_.end() ? as<K>(known->second.get()) : hold<K>(oid, named, reader);
            if (one != nullptr) all.push_back(one);
        }
        return all;
    }
    /// The object of this kind and name, wherever it is and whether or not it exists.
    template <class K> Ref<K> named(const std::string &name) {
        std::uint64_t oid = 0;
        check(host_.named(raw_, view(K::kind), view(name), &oid));
        return Ref<K>(oid, name);
    }
    Ref<> user(const std::string &name) {
        std::uint64_t oid = 0;
        check(host_.user(raw_, view(name), &oid));
        return Ref<>(oid, name);
    }

    // effects
    /// Call an internal method on an object anywhere, exactly once. `then` runs on `me` with the Result.
    /// Methods of this plugin need no "plugin." before their names.
    Reply call(const Ref<> &target, const std::string &method, const Fields &arguments = {},
               const std::string &then = "") {
        Writer packed;
        write_fields(packed, arguments);
        std::uint32_t number = 0;
        check(host_.call(raw_, target.oid, view(target.named), view(full(method)), packed.view(),
                         view(then.empty() ? then : full(then)), &number));
        return Reply{number};
    }
    /// Send an event to all sessions of a user.
    void tell(const Ref<> &user, const std::string &event, const Fields &fields = {}) {
        Writer packed;
        write_fields(packed, fields);
        check(host_.tell(raw_, user.oid, view(event), packed.view()));
    }
    Room room(const std::string &name);
    /// A durable timer on an object: there is one of each name.
    void set_timer(const Ref<> &on, const std::string &name, const std::string &method, double after_s,
                   const Fields &arguments = {}) {
        Writer packed;
        write_fields(packed, arguments);
        check(host_.timer_set(raw_, on.oid, view(name), view(full(method)), after_s, packed.view()));
    }
    void cancel_timer(const Ref<> &on, const std::string &name) {
        check(host_.timer_cancel(raw_, on.oid, view(name)));
    }
    /// For the operator; lines appear at once, also of a call that then fails.
    void log(std::int32_t level, const std::string &text, const Fields &facts = {}) {
        Writer packed;
        write_fields(packed, facts);
        check(host_.log(raw_, level, view(text), packed.view()));
    }

    // for this header
    void check(std::int32_t status) {
        if (status != CS_OK) throw HostFailed();
    }
    /// Hand over what was written to objects so far.
    void flush() {
        Writer changed;
        std::size_t count = 0;
        for (auto &[oid, held] : held_) count += held->changes(changed);
        if (count == 0) return;
        Writer all;
        all.out.reserve(changed.out.size() + 5);
        all.array(count);
        all.out.append(changed.out);
        check(host_.put_many(raw_, all.view()));
    }
    template <class K> K &target() {
        if constexpr (std::is_same_v<K, Object>) {
            any_.oid = me_;
            return any_;
        } else {
            K *found = get(Ref<K>(me_));
            if (found == nullptr) throw std::logic_error("me is not of the kind that the method declares");
            return *found;
        }
    }
    const cs_host &host() { return host_; }
    cs_context *raw() { return raw_; }

private:
    template <class K> K *as(Held *held) {
        return std::string_view(held->kind()) == K::kind ? &static_cast<HeldAs<K> *>(held)->one : nullptr;
    }
    template <class K> K *hold(std::uint64_t oid, std::string_view named, Reader &reader) {
        auto held = std::make_unique<HeldAs<K>>();
        held->unpack(reader);
        held->one.oid = oid;
        held->one.named = std::string(named);
        held->remember();
        K *one = &held->one;
        held_[oid] = std::move(held);
        return one;
    }
    std::string full(const std::string &method) const {
        return method.find('.') == std::string::npos ? std::string(plugin_) + "." + method : method;
    }
    const cs_about &about() {
        if (about_.size == 0) {
            about_.size = sizeof about_;
            check(host_.about(raw_, &about_));
        }
        return about_;
    }

    const cs_host &host_;
    cs_context *raw_;
    std::uint64_t me_;
    const char *plugin_;
    cs_about about_{};
    Object any_;
    std::unordered_map<std::uint64_t, std::unique_ptr<Held>> held_;
};

/// A room, as seen from a method.
class Room {
public:
    Room(Context &context, std::string name) : context_(context), name_(std::move(name)) {}
    /// An ordered event room.message with these fields to all members.
    void send(const Fields &fields) {
        Writer packed;
        write_fields(packed, fields);
        context_.check(context_.host().room_send(context_.raw(), view(name_), packed.view()));
    }
    /// The latest value of this user's `key`, for all members. May be lost: the next one replaces it.
    void update(const std::string &key, const Value &value) { update(key, value, nullptr); }
    /// The same for those near this place.
    void update(const std::string &key, const Value &value, double x, double y) {
        const double at[2] = {x, y};
        update(key, value, at);
    }
    void join(const Ref<> &user) { context_.check(context_.host().room_join(context_.raw(), view(name_), user.oid)); }
    void leave(const Ref<> &user) { context_.check(context_.host().room_leave(context_.raw(), view(name_), user.oid)); }

private:
    void update(const std::string &key, const Value &value, const double *at) {
        Writer packed;
        value.write(packed);
        context_.check(context_.host().room_update(context_.raw(), view(name_), view(key), packed.view(), at));
    }
    Context &context_;
    std::string name_;
};

inline Room Context::room(const std::string &name) { return Room(*this, name); }

}  // namespace cs

#include "connserver_plugin.hpp"

#endif
