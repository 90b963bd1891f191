/* A GPU that is not there: torch's CUDA device, for tests, on a machine that has none.
 *
 * Its tensors say that they are on cuda:0, and autograd, transformers, peft, bitsandbytes and trl
 * believe it; their numbers lie in the machine's memory and are computed by the CPU's kernels. What
 * a real one refuses is refused: operators on tensors of both devices. And what its tensors hold is
 * counted. What kernels would need for themselves is not, nor are there streams: all is at once.
 */

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>

using at::Scalar;
using at::Tensor;
using c10::DispatchKey;
using c10::DispatchKeySet;
using std::optional;

namespace {

const c10::Device kGpu(c10::kCUDA, 0);

/* ------------------------------------------------------------------ memory */

std::atomic<int64_t> live{0}, peak{0};  // bytes
std::atomic<bool> counting{true};

struct Held {
    c10::DataPtr data;
    int64_t bytes;
};

void let_go(void* held) {
    auto* one = static_cast<Held*>(held);
    live -= one->bytes;
    delete one;
}

/* Memory of the CPU as memory of the device, counted while it is held. */
c10::DataPtr counted(c10::DataPtr data, int64_t bytes) {
    if (!counting) bytes = 0;
    int64_t now = live += bytes, before = peak;
    while (now > before && !peak.compare_exchange_weak(before, now)) {}
    void* at = data.get();
    return {at, new Held{std::move(data), bytes}, &let_go, kGpu};
}

struct Memory final : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override {
        return counted(c10::GetCPUAllocator()->allocate(bytes), static_cast<int64_t>(bytes));
    }
    void copy_data(void* to, const void* from, size_t bytes) const override {
        default_copy_data(to, from, bytes);
    }
};
Memory memory;

/* ------------------------------------------------------------------ the device */

struct Guard final : c10::impl::DeviceGuardImplInterface {
    c10::DeviceType type() const override { return c10::kCUDA; }
    c10::Device exchangeDevice(c10::Device) const override { return kGpu; }
    c10::Device getDevice() const override { return kGpu; }
    void setDevice(c10::Device) const override {}
    void uncheckedSetDevice(c10::Device) const noexcept override {}
    c10::Stream getStream(c10::Device) const override {
        return c10::Stream(c10::Stream::DEFAULT, kGpu);
    }
    c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
    c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
    c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
        return getStream(device);
    }
    c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
    void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
    void record(void**, const c10::Stream&, const c10::DeviceIndex,
                const c10::EventFlag) const override {}
    void block(void*, const c10::Stream&) const override {}
    bool queryEvent(void*) const override { return true; }
    c10::DeviceIndex deviceCount() const noexcept override { return 1; }
    bool queryStream(const c10::Stream&) const override { return true; }
    void synchronizeStream(const c10::Stream&) const override {}
    void synchronizeEvent(void*) const override {}
    void synchronizeDevice(const c10::DeviceIndex) const override {}
    void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
Guard guard;

struct CUDAHooks final : at::CUDAHooksInterface {  // torch asks for one of this name
    explicit CUDAHooks(at::CUDAHooksArgs) {}
    void init() const override {}
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasCUDA() const override { return true; }
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    c10::DeviceIndex current_device() const override { return 0; }
    c10::DeviceIndex deviceCount() const override { return 1; }
    c10::DeviceIndex getCurrentDevice() const override { return 0; }
    void setCurrentDevice(c10::DeviceIndex) const override {}
    c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
    c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
    int getNumGPUs() const override { return 1; }
    void deviceSynchronize(c10::DeviceIndex) const override {}
    c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
    c10::Allocator* getCUDADeviceAllocator() const override { return &memory; }
    const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
        return at::detail::getDefaultCPUGenerator();
    }
    at::Generator getNewGenerator(c10::DeviceIndex) const override {
        return at::detail::createCPUGenerator();
    }
};

/* ------------------------------------------------------------------ operators */

/* The same memory as a tensor of the CPU. */
Tensor on_cpu(const Tensor& x) {
    if (!x.defined() || !x.is_cuda()) return x;
    auto options = x.options().device(c10::kCPU).requires_grad(false);
    return at::from_blob(x.data_ptr(), x.sizes(), x.strides(), [x](void*) {}, options);
}

/* The memory of a tensor of the CPU that nobody else has, as a tensor of the device. */
Tensor on_gpu(const Tensor& x) {
    if (!x.defined()) return x;
    c10::Storage old = x.storage();
    auto bytes = static_cast<int64_t>(old.nbytes());
    c10::DataPtr data(
        old.mutable_data(), new c10::Storage(old),
        [](void* storage) { delete static_cast<c10::Storage*>(storage); }, c10::Device(c10::kCPU));
    c10::Storage storage(c10::Storage::use_byte_size_t{}, bytes, counted(std::move(data), bytes),
                         &memory, /*resizable=*/true);
    Tensor made = at::detail::make_tensor<c10::TensorImpl>(
        std::move(storage), DispatchKeySet(DispatchKey::CUDA), x.dtype());
    made.unsafeGetTensorImpl()->set_sizes_and_strides(x.sizes(), x.strides(), x.storage_offset());
    return made;
}

/* Whether CUDA's kernel takes indices of the CPU. */
bool takes_both(const std::string& name) {
    return name == "aten::index" || name == "aten::_index_put_impl_";
}

bool writes(const c10::AliasInfo* alias) { return alias != nullptr && alias->isWrite(); }

/* Arguments of an operator as the CPU's kernel takes them. */
struct Arguments {
    bool here = false, elsewhere = false;
    std::vector<std::pair<Tensor, Tensor>> unsized;  // outputs yet to be resized, and in their place

    void see(const Tensor& x) {
        if (!x.defined()) return;
        if (x.is_cuda()) here = true;
        else if (x.dim() > 0) elsewhere = true;  // a number may be of the CPU
    }
    Tensor taken(const Tensor& x, const c10::AliasInfo* alias) {
        see(x);
        if (!writes(alias) || !x.defined() || !x.is_cuda() || x.numel() > 0) return on_cpu(x);
        unsized.emplace_back(x, at::empty(x.sizes(), x.options().device(c10::kCPU)));
        return unsized.back().second;
    }
    void take(c10::IValue& value, const c10::AliasInfo* alias) {
        if (value.isTensor()) {
            value = taken(value.toTensor(), alias);
        } else if (value.isTensorList()) {
            c10::List<Tensor> all;
            for (const Tensor& x : value.toTensorList()) all.push_back(taken(x, nullptr));
            value = all;
        } else if (value.isOptionalTensorList()) {
            c10::List<optional<Tensor>> all;
            for (const optional<Tensor>& x : value.toOptionalTensorList())
                all.push_back(x ? optional<Tensor>(taken(*x, nullptr)) : std::nullopt);
            value = all;
        } else if (value.isDevice()) {
            value = c10::Device(c10::kCPU);
        }
    }
};

/* What the CPU's kernel returned, where it is new; an argument, where it is that. */
c10::IValue returned(const c10::IValue& value, const std::vector<c10::IValue>& given) {
    if (value.isTensorList()) {
        c10::List<Tensor> all;
        for (const Tensor& x : value.toTensorList()) all.push_back(on_gpu(x));
        return all;
    }
    if (!value.isTensor() || !value.toTensor().defined()) return value;
    Tensor x = value.toTensor();
    for (const auto& one : given) {
        if (!one.isTensor() || !one.toTensor().defined() || !one.toTensor().is_cuda()) continue;
        Tensor known = one.toTensor();
        if (x.numel() > 0 && known.data_ptr() == x.data_ptr() && known.sizes() == x.sizes())
            return known;
    }
    return on_gpu(x);
}

/* Any operator that has no kernel of its own here. */
void by_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    const auto& schema = op.schema();
    const auto& arguments = schema.arguments();
    const std::string& name = schema.operator_name().name;
    std::vector<c10::IValue> given(stack->end() - arguments.size(), stack->end());
    size_t first = stack->size() - arguments.size();
    Arguments taken;
    for (size_t i = 0; i < arguments.size(); i++)
        taken.take((*stack)[first + i], arguments[i].alias_info());
    TORCH_CHECK(!(taken.here && taken.elsewhere) || takes_both(name), name,
                ": expected all tensors to be on the same device, but found at least two devices, "
                "cuda:0 and cpu!");
    op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
    for (auto& [x, made] : taken.unsized)
        if (made.numel() > 0) on_cpu(x.resize_(made.sizes())).copy_(made);
    first = stack->size() - schema.returns().size();
    for (size_t i = 0; i < schema.returns().size(); i++) {
        auto& value = (*stack)[first + i];
        const auto* alias = schema.returns()[i].alias_info();
        TORCH_CHECK(alias == nullptr || alias->isWrite() || !value.isTensor(), name,
                    ": a view that this device does not have");
        if (!writes(alias)) {
            value = returned(value, given);
            continue;
        }
        for (size_t j = 0; j < arguments.size(); j++) {
            const auto* other = arguments[j].alias_info();
            if (other != nullptr && *other == *alias) value = given[j];
        }
    }
}

Tensor empty(c10::SymIntArrayRef size, optional<c10::ScalarType> dtype, optional<c10::Layout>,
             optional<c10::Device>, optional<bool>, optional<c10::MemoryFormat> format) {
    return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory,
                                     DispatchKeySet(DispatchKey::CUDA),
                                     c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                     optional<c10::ScalarType> dtype, optional<c10::Layout>, optional<c10::Device>,
                     optional<bool>) {
    return at::detail::empty_strided_generic(size, stride, &memory,
                                             DispatchKeySet(DispatchKey::CUDA),
                                             c10::dtype_or_default(dtype));
}

Tensor& copy(Tensor& self, const Tensor& from, bool) {
    on_cpu(self).copy_(on_cpu(from));
    return self;
}

Tensor& set_storage(Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size,
                    c10::IntArrayRef stride) {
    std::vector<int64_t> strides(stride.begin(), stride.end());
    if (strides.size() != size.size()) {  // not given: without gaps
        strides.assign(size.size(), 1);
        for (int64_t i = static_cast<int64_t>(size.size()) - 2; i >= 0; i--)
            strides[i] = strides[i + 1] * size[i + 1];
    }
    auto* made = self.unsafeGetTensorImpl();
    made->set_storage_keep_dtype(std::move(source));
    made->set_storage_offset(offset);
    made->set_sizes_and_strides(size, strides);
    return self;
}

Tensor& set_whole(Tensor& self, at::Storage source) {
    auto count = static_cast<int64_t>(source.nbytes() / self.itemsize());
    return set_storage(self, std::move(source), 0, {count}, {1});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
    return set_storage(self, source.storage(), source.storage_offset(), source.sizes(),
                       source.strides());
}

/* ------------------------------------------------------------------ fused attention */

/* As memory-efficient attention: between forward and backward a number a row is kept, no scores; a
 * query that sees nothing reads zeros. */
const int64_t kEfficient = 2;  // sdp::SDPBackend

int64_t choice(const Tensor&, const Tensor&, const Tensor&, const optional<Tensor>&, double, bool,
               optional<double>, bool) {
    return kEfficient;
}

Tensor heads_of(const Tensor& x, const Tensor& query) {  // keys of grouped queries, repeated
    int64_t times = query.size(1) / x.size(1);
    return times == 1 ? x : x.repeat_interleave(times, 1);
}

Tensor heads_back(const Tensor& g, const Tensor& x) {
    int64_t times = g.size(1) / x.size(1);
    return times == 1 ? g : g.unflatten(1, {x.size(1), times}).sum(2);
}

Tensor scores(const Tensor& query, const Tensor& key, const Tensor& bias, bool causal, double by) {
    Tensor found = query.to(at::kFloat).matmul(key.to(at::kFloat).transpose(-2, -1)) * by;
    if (bias.defined()) found = found + bias.to(at::kFloat);
    if (!causal) return found;
    Tensor seen = at::ones({found.size(-2), found.size(-1)}, at::kBool).tril();
    return found.masked_fill(seen.logical_not(), -INFINITY);
}

double scale_of(const Tensor& query, optional<double> scale) {
    return scale ? *scale : 1 / std::sqrt(static_cast<double>(query.size(-1)));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention(
    const Tensor& query, const Tensor& key, const Tensor& value, const optional<Tensor>& bias, bool,
    double dropout, bool causal, optional<double> scale) {
    TORCH_CHECK(dropout == 0, "dropout in attention is to be written");
    Tensor q = on_cpu(query), k = heads_of(on_cpu(key), q), v = heads_of(on_cpu(value), q);
    Tensor found = scores(q, k, bias ? on_cpu(*bias) : Tensor(), causal, scale_of(q, scale));
    Tensor read = at::_safe_softmax(found, -1).matmul(v.to(at::kFloat)).to(q.dtype());
    Tensor seed = at::empty({}, at::kLong);
    return {on_gpu(read), on_gpu(found.logsumexp(-1)), on_gpu(seed), on_gpu(seed.clone())};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& g, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& bias, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double,
    std::array<bool, 4> wanted, bool causal, optional<double> scale) {
    TORCH_CHECK(!wanted[3], "a bias with a gradient is to be written");
    Tensor q = on_cpu(query), k = heads_of(on_cpu(key), q), v = heads_of(on_cpu(value), q);
    double by = scale_of(q, scale);
    Tensor p = at::_safe_softmax(scores(q, k, on_cpu(bias), causal, by), -1);
    Tensor to_read = on_cpu(g).to(at::kFloat);
    Tensor to_p = to_read.matmul(v.to(at::kFloat).transpose(-2, -1));
    Tensor to_scores = p * (to_p - (to_p * p).sum(-1, true)) * by;
    Tensor to_q = to_scores.matmul(k.to(at::kFloat)).to(q.dtype());
    Tensor to_k = heads_back(to_scores.transpose(-2, -1).matmul(q.to(at::kFloat)), key);
    Tensor to_v = heads_back(p.transpose(-2, -1).matmul(to_read), value);
    return {on_gpu(to_q), on_gpu(to_k.to(k.dtype())), on_gpu(to_v.to(v.dtype())), Tensor()};
}

/* ------------------------------------------------------------------ products of another dtype */

Tensor mm(const Tensor& a, const Tensor& b, c10::ScalarType dtype) {
    return on_gpu(at::mm(on_cpu(a).to(dtype), on_cpu(b).to(dtype)));
}

Tensor& mm_out(const Tensor& a, const Tensor& b, c10::ScalarType dtype, Tensor& out) {
    on_cpu(out).copy_(at::mm(on_cpu(a).to(dtype), on_cpu(b).to(dtype)));
    return out;
}

Tensor& addmm_out(const Tensor& x, const Tensor& a, const Tensor& b, c10::ScalarType dtype,
                  const Scalar& beta, const Scalar& alpha, Tensor& out) {
    Tensor one = on_cpu(a).to(dtype), two = on_cpu(b).to(dtype);
    on_cpu(out).copy_(at::addmm(on_cpu(x).to(dtype), one, two, beta, alpha));
    return out;
}

Tensor addmm(const Tensor& x, const Tensor& a, const Tensor& b, c10::ScalarType dtype,
             const Scalar& beta, const Scalar& alpha) {
    Tensor one = on_cpu(a).to(dtype), two = on_cpu(b).to(dtype);
    return on_gpu(at::addmm(on_cpu(x).to(dtype), one, two, beta, alpha));
}

/* ------------------------------------------------------------------ registration */

auto boxed() { return torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>(); }

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(boxed()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
    m.impl("empty.memory_format", &empty);
    m.impl("empty_strided", &empty_strided);
    m.impl("copy_", &copy);
    m.impl("set_.source_Storage_storage_offset", &set_storage);
    m.impl("set_.source_Storage", &set_whole);
    m.impl("set_.source_Tensor", &set_tensor);
    m.impl("view", [](const Tensor& x, c10::IntArrayRef size) { return at::native::view(x, size); });
    m.impl("as_strided", [](const Tensor& x, c10::IntArrayRef size, c10::IntArrayRef stride,
                            optional<int64_t> offset) {
        return at::native::as_strided_tensorimpl(x, size, stride, offset);
    });
    m.impl("_reshape_alias", [](const Tensor& x, c10::IntArrayRef size, c10::IntArrayRef stride) {
        return at::native::_reshape_alias(x, size, stride);
    });
    m.impl("unfold", [](const Tensor& x, int64_t dimension, int64_t size, int64_t step) {
        return at::native::unfold(x, dimension, size, step);
    });
    m.impl("resize_", [](const Tensor& x, c10::IntArrayRef size,
                         optional<c10::MemoryFormat> format) -> const Tensor& {
        return at::native::resize_(x, size, format);
    });
    m.impl("_scaled_dot_product_efficient_attention", &attention);
    m.impl("_scaled_dot_product_efficient_attention_backward", &attention_backward);
    m.impl("mm.dtype", &mm);
    m.impl("mm.dtype_out", &mm_out);
    m.impl("addmm.dtype", &addmm);
    m.impl("addmm.dtype_out", &addmm_out);
}

/* Else bitsandbytes would compute by torch's operators, whose intermediates no kernel has. */
TORCH_LIBRARY_IMPL(bitsandbytes, CUDA, m) {
    for (const char* name :
         {"int8_mixed_scaled_mm", "int8_scaled_mm", "int8_linear_matmul", "int8_linear_matmul.out",
          "int8_vectorwise_quant", "int8_vectorwise_dequant", "int8_mm_dequant", "int8_double_quant",
          "dequantize_4bit", "dequantize_4bit.out", "quantize_4bit", "gemm_4bit",
          "dequantize_blockwise", "dequantize_blockwise.out", "quantize_blockwise", "gemv_4bit",
          "gemv_4bit.out"})
        m.impl(name, boxed());
}

const bool known = [] {
    c10::SetAllocator(c10::kCUDA, &memory, 255);
    c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::kCUDA)].store(&guard);
    at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choice);
    return true;
}();

}  // namespace

namespace at {
using ::CUDAHooks;
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at

extern "C" {
int64_t live_bytes() { return live; }
int64_t peak_bytes() { return peak; }
void reset_peak() { peak = live.load(); }
void count(bool on) { counting = on; }
}
