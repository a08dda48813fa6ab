"""How loud recordings are made."""

import math

from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.audio.quality import Quality
from aasvc_cli.data.excerpts import gain_to


def quality(*, loudness: float | None, peak: float) -> Quality:
    """Of a recording of a second that is speech throughout."""
    return Quality(1.0, 16000, peak, 0.0, loudness, 8000.0, 0.0, 1.0, ())


@given(loudness=st.floats(-60.0, 0.0), peak=st.floats(1e-4, 1.0), usual=st.floats(-40.0, -10.0))
def test_recordings_come_to_the_usual_loudness_as_far_as_none_is_clipped(loudness: float, peak: float, usual: float):
    gain = gain_to(usual, quality(loudness=loudness, peak=peak))
    assert peak * 10.0 ** (gain / 20.0) <= 1.0 + 1e-9
    room = -20.0 * math.log10(peak)
    missed = usual - loudness - gain
    assert abs(missed) <= 0.0501 or (missed > 0.0 and room - gain <= 0.1001)


def test_what_has_no_loudness_stays_as_it_is():
    assert gain_to(-23.0, quality(loudness=None, peak=0.5)) == gain_to(None, quality(loudness=-30.0, peak=0.5)) == 0.0
