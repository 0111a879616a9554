"""Keys and values in one preallocated buffer per layer.

transformers' `DynamicCache` copies everything it holds at each append; `StaticCache` attends over
its whole length under a mask.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import CacheLayerMixin

__all__ = ["BufferLayer"]


class BufferLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """Keys and values of one layer in a preallocated tensor; a view of it is attended to."""

    is_croppable = True

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.kept: torch.Tensor | None = None
        """(num_kv_heads, kept) places in the prompt of the first tokens, where a press left some
        out."""
        self.num_dropped = 0
        """Tokens that were left out."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shape = (*key_states.shape[:2], self.capacity, key_states.shape[3])
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty(shape)
        self.values = value_states.new_empty((*shape[:3], value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        assert end <= self.capacity, "the engine reserves room before it extends"
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def places(self) -> torch.Tensor:
        """(num_kv_heads or 1, length) places in the prompt of the tokens that are held."""
        if self.kept is None:
            return torch.arange(self.length)[None]
        heads, count = self.kept.shape
        after = torch.arange(count, self.length) + self.num_dropped
        return torch.cat([self.kept, after.expand(heads, -1).to(self.kept.device)], dim=1)

    def pressed(self, kept: torch.Tensor, capacity: int) -> BufferLayer:
        """A copy that holds (num_kv_heads, kept) places alone, and as much room beyond them."""
        layer = BufferLayer(capacity - self.length + kept.shape[1])
        index = kept[None, :, :, None]
        keys = self.keys.gather(2, index.expand(-1, -1, -1, self.keys.shape[3]))
        values = self.values.gather(2, index.expand(-1, -1, -1, self.values.shape[3]))
        layer.update(keys, values)
        layer.kept, layer.num_dropped = kept, self.length - kept.shape[1]
        return layer

    @property
    def bytes_held(self) -> int:
        """Of keys and values of the tokens that are held."""
        per_token = sum(x[:, :, :1].numel() * x.element_size() for x in (self.keys, self.values))
        return self.length * per_token

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` tokens, keeping what is held."""
        if capacity <= self.capacity:
            return
        if self.is_initialized:
            old_keys, old_values = self.keys, self.values
            self.capacity = capacity
            self.lazy_initialization(old_keys, old_values)
            self.keys[:, :, : self.length] = old_keys[:, :, : self.length]
            self.values[:, :, : self.length] = old_values[:, :, : self.length]
        self.capacity = capacity
