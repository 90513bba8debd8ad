"""The log-prob kernel of gpu_check.py; its own file because Triton exists where a GPU does."""

import triton
import triton.language as tl


@triton.jit
def log_prob_kernel(logits, labels, out, row_stride, vocabulary, BLOCK: tl.constexpr):
    """out[row] = logits[row, label] - logsumexp(logits[row]), a row a program, in float32."""
    row = tl.program_id(0)
    start = logits + row.to(tl.int64) * row_stride
    largest = -float("inf")
    total = 0.0
    for first in range(0, vocabulary, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        values = tl.load(start + columns, mask=columns < vocabulary, other=-float("inf")).to(tl.float32)
        above = tl.maximum(largest, tl.max(values, axis=0))
        total = total * tl.exp(largest - above) + tl.sum(tl.exp(values - above), axis=0)
        largest = above
    label = tl.load(labels + row)
    tl.store(out + row, tl.load(start + label).to(tl.float32) - largest - tl.log(total))
