"""The grid of integers: rounding, its gradients, and the kernels that compute them."""
