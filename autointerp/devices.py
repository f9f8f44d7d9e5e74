"""What went wrong on a device: too little memory, which concerns what was being computed, or a device that is of no more use."""

# What the libraries of a GPU call themselves in their messages; after one of their errors the process can use it no more.
_BROKEN = (
    "CUDA error",
    "CUDA driver error",
    "cuDNN error",
    "CUBLAS_STATUS",
    "HIP error",
    "MPS backend error",
    "NCCL error",
)
# The allocators of main memory have a message but no class of error; the libraries of a GPU ask for memory of their own.
_MEMORY = ("out of memory", "not enough memory", "DefaultCPUAllocator", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the computation was too large for what memory was left. A smaller one may do."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _MEMORY)


def is_broken_device(error: BaseException) -> bool:
    """Whether the device failed, and with it all that is on it. Nothing else can be computed there by this process."""
    import torch

    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _BROKEN)


def free_memory() -> None:
    """Give back what the allocator keeps for later. Called when the tensors that nobody needs are gone."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
