// Autocast on the device: the lists that torch_npu 2.13 registers. They are PyTorch's lists for CUDA
// without the upsampling family, rms_norm, vdot and linalg_vecdot.
#include <ATen/autocast_mode.h>

namespace npu_sim {
namespace {

using namespace at::autocast;

at::Tensor refuse_binary_cross_entropy(
    const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, int64_t) {
  TORCH_CHECK(false, "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast, "
      "binary_cross_entropy_with_logits and BCEWithLogitsLoss are safe.");
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

// The macros require that the library is named m.
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define IN_HALF(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define IN_FLOAT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define TO_FLOAT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define IN_WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  IN_HALF(_convolution) IN_HALF(_convolution, deprecated) IN_HALF(conv1d) IN_HALF(conv2d) IN_HALF(conv3d)
  IN_HALF(conv_tbc) IN_HALF(conv_transpose1d) IN_HALF(conv_transpose2d, input)
  IN_HALF(conv_transpose3d, input) IN_HALF(convolution) IN_HALF(prelu) IN_HALF(addmm) IN_HALF(addmv)
  IN_HALF(addr) IN_HALF(matmul) IN_HALF(einsum) IN_HALF(mm) IN_HALF(mv) IN_HALF(linear) IN_HALF(addbmm)
  IN_HALF(baddbmm) IN_HALF(bmm) IN_HALF(chain_matmul) IN_HALF(linalg_multi_dot) IN_HALF(lstm_cell)
  IN_HALF(gru_cell) IN_HALF(rnn_tanh_cell) IN_HALF(rnn_relu_cell) IN_HALF(scaled_dot_product_attention)

  IN_FLOAT(acos) IN_FLOAT(asin) IN_FLOAT(cosh) IN_FLOAT(erfinv) IN_FLOAT(exp) IN_FLOAT(expm1) IN_FLOAT(log)
  IN_FLOAT(log10) IN_FLOAT(log2) IN_FLOAT(log1p) IN_FLOAT(reciprocal) IN_FLOAT(rsqrt) IN_FLOAT(sinh)
  IN_FLOAT(tan) IN_FLOAT(pow, Tensor_Scalar) IN_FLOAT(pow, Tensor_Tensor) IN_FLOAT(pow, Scalar)
  IN_FLOAT(softplus) IN_FLOAT(layer_norm) IN_FLOAT(native_layer_norm) IN_FLOAT(group_norm)
  IN_FLOAT(frobenius_norm, dim) IN_FLOAT(nuclear_norm) IN_FLOAT(nuclear_norm, dim) IN_FLOAT(cosine_similarity)
  IN_FLOAT(poisson_nll_loss) IN_FLOAT(cosine_embedding_loss) IN_FLOAT(nll_loss) IN_FLOAT(nll_loss2d)
  IN_FLOAT(hinge_embedding_loss) IN_FLOAT(kl_div) IN_FLOAT(l1_loss) IN_FLOAT(smooth_l1_loss)
  IN_FLOAT(huber_loss) IN_FLOAT(mse_loss) IN_FLOAT(margin_ranking_loss) IN_FLOAT(multilabel_margin_loss)
  IN_FLOAT(soft_margin_loss) IN_FLOAT(triplet_margin_loss) IN_FLOAT(multi_margin_loss)
  IN_FLOAT(binary_cross_entropy_with_logits) IN_FLOAT(dist) IN_FLOAT(pdist) IN_FLOAT(cdist) IN_FLOAT(renorm)
  IN_FLOAT(logsumexp)

  TO_FLOAT(prod) TO_FLOAT(prod, dim_int) TO_FLOAT(softmax, int) TO_FLOAT(log_softmax, int) TO_FLOAT(cumprod)
  TO_FLOAT(cumsum) TO_FLOAT(linalg_vector_norm) TO_FLOAT(linalg_matrix_norm)
  TO_FLOAT(linalg_matrix_norm, str_ord) TO_FLOAT(sum) TO_FLOAT(sum, dim_IntList)

  IN_WIDEST(addcdiv) IN_WIDEST(addcmul) IN_WIDEST(atan2) IN_WIDEST(bilinear) IN_WIDEST(cross) IN_WIDEST(dot)
  IN_WIDEST(grid_sampler) IN_WIDEST(index_put) IN_WIDEST(tensordot) IN_WIDEST(scatter_add)

  m.impl("binary_cross_entropy", TORCH_FN(refuse_binary_cross_entropy));
}

}  // namespace
}  // namespace npu_sim
