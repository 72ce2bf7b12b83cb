// A plugin that uses what of connserver.hpp the samples do not.
#include "connserver.hpp"

#include <stdexcept>

namespace {

struct Person : cs::Object {
    static constexpr const char *kind = "person";
    std::optional<std::string> nick;
    cs::Bytes seal{"\x01\xff"};
    cs::Value memo;
    std::vector<cs::Ref<>> friends;
    std::map<std::string, std::vector<double>> marks;
    std::int32_t small = 0;
    std::int64_t rings = 0;
    template <class F> void fields(F &field) {
        field("nick", nick, cs::unique);
        field("seal", seal);
        field("memo", memo);
        field("friends", friends);
        field("marks", marks);
        field("small", small);
        field("rings", rings);
    }
};

struct Stone : cs::Object {
    static constexpr const char *kind = "stone";
    std::string colour = "grey";
    std::int64_t weight = 1;
    template <class F> void fields(F &field) {
        field("colour", colour, cs::indexed);
        field("weight", weight);
    }
};

cs::Fields keep(cs::Context &, Person &me, const cs::Value &memo, const std::optional<std::string> &nick,
                const cs::Bytes &seal, const std::vector<cs::Ref<>> &friends,
                const std::map<std::string, std::vector<double>> &marks, std::int32_t small) {
    me.nick = nick;
    me.seal = seal;
    me.memo = memo;
    me.friends = friends;
    me.marks = marks;
    me.small = small;
    return {{"nick", nick}, {"seal", seal}, {"memo", memo}, {"friends", friends}, {"marks", marks}, {"small", small}};
}

std::int64_t stones(cs::Context &ctx, cs::Object &, const std::string &colour) {
    std::int64_t weight = 0;
    for (const auto *stone : ctx.where<Stone>({{"colour", colour}})) weight += stone->weight;
    return weight;
}

/// What this call has changed counts, what it removed does not, and an object is one however it is reached.
cs::Fields pile(cs::Context &ctx, Person &me) {
    Stone red;
    red.colour = "red";
    auto &first = ctx.create(red);
    auto &second = ctx.create(Stone(), "rock");
    first.weight = 5;
    second.colour = "red";
    const auto found = ctx.where<Stone>({{"colour", "red"}});
    const bool one = found.size() == 2 && (found[0] == &first || found[1] == &first) && ctx.get(cs::Ref<Stone>(first)) == &first;
    const bool other = ctx.get(cs::Ref<Person>(first.oid)) == nullptr && ctx.get(cs::Ref<Stone>(me.oid)) == nullptr;
    const bool named = ctx.named<Stone>("rock").oid == second.oid && second.named == "rock";
    const auto third = ctx.create(Stone()).oid;
    ctx.remove(*ctx.get(cs::Ref<Stone>(third)));
    const bool gone = ctx.get(cs::Ref<Stone>(third)) == nullptr;
    return {{"one", one}, {"other", other}, {"named", named}, {"gone", gone}, {"found", found.size()}};
}

void ring(cs::Context &ctx, Person &me, double after) { ctx.set_timer(me, "bell", "rung", after, {{"times", 2}}); }
void quiet(cs::Context &ctx, Person &me) { ctx.cancel_timer(me, "bell"); }
void rung(cs::Context &, Person &me, std::int64_t times) { me.rings += times; }

cs::Fields who(cs::Context &ctx, cs::Object &me) {
    ctx.log(CS_WARNING, "somebody asks", {{"who", ctx.user_name()}});
    return {{"me", cs::Ref<>(me)}, {"name", ctx.user_name()}, {"roles", ctx.roles()}, {"user", ctx.user()},
            {"now", ctx.now()}, {"partition", ctx.partition()}, {"session", ctx.session() != 0}, {"dt", ctx.dt()}};
}

void fail(cs::Context &ctx, Person &me, std::int64_t how) {
    me.rings = 1000;
    ctx.create(Stone());
    if (how == 0) throw std::out_of_range("beyond");
    if (how == 1) throw 17;
    if (how == 2) std::string().at(5);
    if (how == 3) ctx.get(cs::Ref<Stone>(1));
    if (how == 4) ctx.call(me, "nothing_like_it");
    if (how == 5) me.nick = std::string("\xff");
    if (how == 6) {
        try {
            ctx.get(cs::Ref<Stone>(1));
        } catch (const std::exception &) {
            // the host has not forgotten
        }
    }
}

std::vector<std::string> both(cs::Context &, cs::Object &, const std::string &a, const std::string &b) { return {a, b}; }

void left(cs::Context &, Person &me) { me.rings = -1; }

}  // namespace

CONNSERVER_PLUGIN("wrapper", "1.0.0") {
    plugin.kind<Person>();
    plugin.kind<Stone>();
    plugin.method("wrapper.keep", keep, "memo", cs::optional("nick", nullptr), cs::optional("seal", cs::Bytes{"s"}),
                  cs::optional("friends", cs::Array{}), cs::optional("marks", cs::Fields{}), cs::optional("small", 3));
    plugin.method("wrapper.stones", stones, "colour");
    plugin.method("wrapper.pile", pile);
    plugin.method("wrapper.ring", ring, "after");
    plugin.method("wrapper.quiet", quiet);
    plugin.internal("rung", rung, "times");
    plugin.method("wrapper.who", who);
    plugin.method("wrapper.fail", fail, "how");
    plugin.method("wrapper.both", both, "a", "b");
    plugin.method("wrapper.add", [](cs::Context &, cs::Object &, std::int64_t a, std::int64_t b) { return a + b; }, "a", "b");
    plugin.on_leave("left", left);
}
