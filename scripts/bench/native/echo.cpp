// What scripts/bench/native/calls.py calls: methods that do next to nothing.
#include "connserver.hpp"

namespace {

struct Counter : cs::Object {
    static constexpr const char *kind = "counter";
    std::int64_t count = 0;
    std::string name = "somebody";
    std::vector<std::string> bag;
    template <class F> void fields(F &field) {
        field("count", count);
        field("name", name);
        field("bag", bag);
    }
};

void empty(cs::Context &) {}
void nothing(cs::Context &, cs::Object &) {}
void take(cs::Context &, cs::Object &, const std::string &, std::int64_t) {}
cs::Fields answer(cs::Context &, cs::Object &) { return {{"text", "hi"}}; }
cs::Fields read(cs::Context &, Counter &me) { return {{"count", me.count}}; }
void write(cs::Context &, Counter &me) { ++me.count; }

}  // namespace

CONNSERVER_PLUGIN("echo", "1.0.0") {
    plugin.kind<Counter>();
    plugin.every<Counter>("empty", 1, empty);
    plugin.method("echo.nothing", nothing);
    plugin.method("echo.take", take, "text", "number");
    plugin.method("echo.answer", answer);
    plugin.method("echo.read", read);
    plugin.method("echo.write", write);
}
