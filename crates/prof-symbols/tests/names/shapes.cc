// Templates, lambdas, virtual calls and much that is inlined into much.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace shapes {

template <typename T, int N>
struct Point {
    T at[N];
    T dot(const Point &other) const
    {
        T sum{};
        for (int i = 0; i < N; i++)
            sum += at[i] * other.at[i];
        return sum;
    }
};

struct Shape {
    virtual ~Shape() = default;
    virtual double area() const = 0;
    bool operator<(const Shape &other) const { return area() < other.area(); }
};

class Circle final : public Shape {
    double radius;

public:
    explicit Circle(double r) : radius(r) {}
    double area() const override { return 3.14159 * radius * radius; }
};

template <typename Inner>
class Scaled final : public Shape {
    Inner inner;
    double by;

public:
    Scaled(Inner i, double b) : inner(i), by(b) {}
    double area() const override { return inner.area() * by * by; }
};

static inline long mix(long a, long b)
{
    return (a ^ b) * 0x9e3779b97f4a7c15L;
}

template <typename F>
__attribute__((noinline)) long repeat(F f, int times)
{
    long sum = 0;
    for (int i = 0; i < times; i++)
        sum = mix(sum, f(i));
    return sum;
}

} // namespace shapes

namespace {
struct Hidden {
    std::map<std::string, std::vector<int>> words;
    __attribute__((noinline)) int add(const std::string &word, int n)
    {
        auto &list = words[word];
        list.push_back(n);
        return static_cast<int>(list.size());
    }
};
} // namespace

#ifdef NAME
int NAME(int n)
{
    return n + __LINE__;
}
#endif

int main(int argc, char **argv)
{
    using namespace shapes;
    std::vector<std::unique_ptr<Shape>> all;
    for (int i = 0; i < 100 * argc; i++) {
        all.push_back(std::make_unique<Circle>(i));
        all.push_back(std::make_unique<Scaled<Scaled<Circle>>>(Scaled<Circle>(Circle(i), 2), 3));
    }
    std::sort(all.begin(), all.end(), [](const auto &a, const auto &b) { return *b < *a; });
    Point<double, 3> p{{1, 2, 3}};
    Point<long, 2> q{{4, 5}};
    Hidden hidden;
    std::unordered_map<long, std::function<long(int)>> calls;
    for (long i = 0; i < 10; i++)
        calls[i] = [i](int n) { return mix(i, n); };
    long sum = repeat([&](int i) { return q.dot(q) + hidden.add(argv[0], i); }, 100);
    for (auto &[key, call] : calls)
        sum += repeat(call, static_cast<int>(key));
    std::printf("%ld %f %f\n", sum, p.dot(p), all.front()->area());
    return 0;
}
