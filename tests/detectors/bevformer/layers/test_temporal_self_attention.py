"""Temporal self-attention on maps where the answer is known."""

from __future__ import annotations

import pytest
import torch

from qdbev.detectors.bevformer.frames.geometry import cell_centres
from qdbev.detectors.bevformer.layers.temporal_self_attention import Past, TemporalSelfAttention

ROWS, COLUMNS, CHANNELS = 3, 4, 8
CELLS = cell_centres(rows=ROWS, columns=COLUMNS, device=torch.device("cpu"))


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return TemporalSelfAttention(channels=CHANNELS, heads=2, points=2, dropout=0.0)


def looking_straight(attention):
    """Every point at the cell itself, all weights the same."""
    torch.nn.init.zeros_(attention.sampling_offsets.bias)
    return attention


def draw(batch=2):
    return torch.randn(batch, ROWS * COLUMNS, CHANNELS)


def run(attention, query, *, first=None, past=None, position=None):
    position = torch.zeros(ROWS * COLUMNS, CHANNELS) if position is None else position
    first = query if first is None else first
    return attention(query, first_BQC=first, position_QC=position, past=past, cells_Q2=CELLS, rows=ROWS)


def past_of(bev, *present, shift=(0.0, 0.0)):
    return Past(bev, present, torch.tensor([shift] * len(bev)) * torch.tensor(present)[:, None])


def test_looking_straight_is_the_mean_of_history_and_encoder_input(attention):
    query, first, bev = draw(), draw(), draw()
    expected = query + attention.output_proj((attention.value_proj(bev) + attention.value_proj(first)) / 2)
    found = run(looking_straight(attention), query, first=first, past=past_of(bev, True, True))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_without_history_a_cell_looks_at_this_layers_query(attention):
    query, first = draw(), draw()
    expected = query + attention.output_proj(attention.value_proj(query))
    torch.testing.assert_close(run(looking_straight(attention), query, first=first), expected, atol=1e-5, rtol=0)


def test_the_shift_moves_the_history_only(attention):
    query, bev = draw(1), draw(1)
    found = run(looking_straight(attention), query, past=past_of(bev, True, shift=(1 / COLUMNS, 0.0)))
    moved = attention.value_proj(bev).view(1, ROWS, COLUMNS, CHANNELS).roll(-1, dims=2)
    moved[:, :, -1] = 0  # comes from outside the map
    expected = query + attention.output_proj((moved.flatten(1, 2) + attention.value_proj(query)) / 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_each_slot_has_its_own_softmax(attention):
    """A large logit in the history slot must not take weight from the current slot."""
    with torch.no_grad():
        attention.attention_weights.bias.view(2, 2, 2)[:, 0, 0] = 50.0
    query, bev = draw(1), draw(1)
    found = run(looking_straight(attention), query, past=past_of(bev, True))
    expected = query + attention.output_proj((attention.value_proj(bev) + attention.value_proj(query)) / 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_mixed_batch_equals_its_samples_alone(attention):
    torch.nn.init.normal_(attention.sampling_offsets.weight)
    torch.nn.init.normal_(attention.attention_weights.weight)
    query, first, bev, position = draw(), draw(), draw(), torch.randn(ROWS * COLUMNS, CHANNELS)
    mixed = past_of(bev, True, False, shift=(0.1, 0.2))
    both = run(attention, query, first=first, past=mixed, position=position)
    with_history = run(
        attention, query[:1], first=first[:1], past=past_of(bev[:1], True, shift=(0.1, 0.2)), position=position
    )
    without = run(attention, query[1:], first=first[1:], position=position)
    torch.testing.assert_close(both, torch.cat([with_history, without]), atol=1e-6, rtol=0)


def test_the_position_steers_the_looks_but_is_not_in_the_values(attention):
    torch.nn.init.normal_(attention.sampling_offsets.weight)
    query, position = torch.ones(1, ROWS * COLUMNS, CHANNELS), torch.randn(ROWS * COLUMNS, CHANNELS)
    inner = COLUMNS + 1  # far enough from the border for offsets of less than one pixel
    attention.sampling_offsets.weight.data *= 0.01
    torch.nn.init.zeros_(attention.sampling_offsets.bias)
    found = run(attention, query, position=position)
    torch.testing.assert_close(found[:, inner], run(attention, query)[:, inner], atol=1e-5, rtol=0)
