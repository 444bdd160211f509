"""Every row of the table of layers is a test; the table itself says what they found."""

from __future__ import annotations

import pytest
from layers_table import ROWS, Row, table, verdict

GROUPS = {
    "Input", "Convolution", "Activation", "Normalisation", "Dropout", "Crop", "Resize", "Pooling", "Unpooling",
    "Output",
    "Structure", "Custom",
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_layer(row):
    row.check()


def test_every_group_and_no_row_twice():
    assert {row.group for row in ROWS} == GROUPS
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_the_table_tells_what_is_wrong():
    wrong = Row("Custom", "a wrong one", ((3,),), lambda x: x * 2, lambda x: x * 3)
    missing = Row("Custom", "a missing one", ((3,),), lambda x: nowhere(x))  # noqa: F821
    verdicts = {row: verdict(row) for row in (wrong, missing, ROWS[0])}
    text = table(verdicts)
    assert "AssertionError" in verdicts[wrong]
    assert "NameError" in verdicts[missing]
    assert verdicts[ROWS[0]] == "ok"
    assert text.endswith("1 of 3 rows are ok")
    assert all(row.test in text for row in verdicts)
