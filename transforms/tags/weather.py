"""weather: rain, snow, fog or dry, as far as the vehicle's own signals have it; no model, no guess from the pictures.

What it says comes from the first of these that it knows: a signal `weather` (text, as an observer or a service wrote it); the rear
fog light (fog); the rain sensor, or wipers that ran at least half of the minute before (one wash is no rain): snow at 1 °C or
less outside, else rain. Where the sensor or the wipers are known and say neither, it is dry. Options name the signals of a fleet
that has other names: `weather`, `wiper`, `rain`, `fog`, `temperature`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from transforms.errors import TransformError
from transforms.signals import Signal, find, values_at
from transforms.tags.tagger import Float64, Frames, Options, Tagger
from transforms.times import SECOND, Int64

NAMES: dict[str, tuple[str, ...]] = {
    "weather": ("weather",),
    "wiper": ("wiper", "wipers", "wiper_speed", "wiper_status", "front_wiper"),
    "rain": ("rain", "rain_sensor", "rain_intensity", "precipitation"),
    "fog": ("fog_light", "rear_fog_light", "fog_light_rear"),
    "temperature": (
        "temperature",
        "temperature_c",
        "outside_temperature",
        "ambient_temperature",
        "air_temperature",
    ),
}
# many buses say a signal only when it changes
LONGEST_NS = {name: (1800 if name == "weather" else 600) * SECOND for name in NAMES}
WIPED_NS, WIPED_STEPS = 60 * SECOND, 60
FREEZING_C = 1.0


def _signals(frames: Frames, options: Options) -> dict[str, Signal | None]:
    unknown = set(options) - set(NAMES)
    if unknown:
        raise TransformError(
            f"the tagger weather with the option {sorted(unknown)[0]!r}",
            f"its options are {', '.join(NAMES)}",
            "name the signals with these",
        )
    return {
        what: find(frames.signals, (str(options[what]),) if what in options else names)
        for what, names in NAMES.items()
    }


def _numbers(signal: Signal | None, times_ns: Int64, longest_ns: int) -> Float64:
    if signal is None or signal.is_text:
        return np.full(len(times_ns), np.nan)
    return np.asarray(values_at(signal, times_ns, longest_ns), np.float64)


def _wiped(signal: Signal | None, times_ns: Int64) -> Float64:
    """Share of the minute before each time in which the wipers ran; NaN where nothing is known of half of it."""
    if signal is None or signal.is_text or not len(times_ns):
        return np.full(len(times_ns), np.nan)
    steps = np.arange(WIPED_STEPS) * (WIPED_NS // WIPED_STEPS)
    said = values_at(signal, (times_ns[:, None] - steps).reshape(-1), LONGEST_NS["wiper"]).reshape(
        -1, WIPED_STEPS
    )
    known = ~np.isnan(said)
    count = known.sum(axis=1)
    return np.where(count * 2 >= WIPED_STEPS, (known & (said > 0)).sum(axis=1) / np.maximum(count, 1), np.nan)


def make(frames: Frames, options: Options) -> Mapping[str, object]:
    found, times = _signals(frames, options), frames.times_ns
    told = found["weather"]
    texts = (
        values_at(told, times, LONGEST_NS["weather"]).tolist()
        if told and told.is_text
        else [""] * len(frames)
    )
    rain, fog, warm = (
        _numbers(found[what], times, LONGEST_NS[what]) for what in ("rain", "fog", "temperature")
    )
    wiped = _wiped(found["wiper"], times)
    wet = (rain > 0) | (wiped >= 0.5)
    known = ~np.isnan(rain) | ~np.isnan(wiped)
    inferred = np.select(
        [fog > 0, wet & (warm <= FREEZING_C), wet, known], ["fog", "snow", "rain", "dry"], default=""
    )
    weather = [told or own or None for told, own in zip(texts, inferred.tolist(), strict=True)]
    return {"weather": weather, "outside_c": np.round(warm, 1), "wiper_share": np.round(wiped, 2)}


TAGGER = Tagger(
    "weather",
    1,
    lambda options: {"weather": "string", "outside_c": "double", "wiper_share": "double"},
    make,  # type: ignore[arg-type]
)
