"""Six machines made of arithmetic, and what each of their faults changes in the sound."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from auscult.corpus.synthetic_sounds import (
    RATE,
    Wave,
    band,
    bump,
    burst,
    cycle,
    drift,
    gate,
    noise,
    passages,
    place,
    play,
    ring,
    slope,
    strikes,
    timbre,
    tones,
    turns,
    unit,
)
from auscult.corpus.synthetic_take import (
    Take,
    bearing,
    confined,
    during,
    episodes,
    late_strokes,
    lengthened,
    missing_strokes,
)

# How strong each fault is at severity 1: the RMS, peak or depth of what it adds, in the units in which the
# machine's parts are mixed, or the share of strokes that fail; the comment where the figure is used says which.
# Chosen on clips made for the purpose so that at severity 1 and the default SNR the autoencoder of the DCASE
# 2020 baseline reaches a mean AUC between about 0.65 and 0.9 on every type, while single faults range from
# nearly hidden from it (timing) to plain (sound where there was none).
FAULTS: dict[str, dict[str, float]] = {
    "fan": {"imbalance": 0.28, "bearing": 0.1, "obstruction": 0.5, "rattle": 0.09},
    "pump": {"leak": 0.15, "cavitation": 0.12, "clogging": 0.5, "bearing": 0.14},
    "slider": {"missing-stroke": 0.15, "late-stroke": 0.5, "dry-rail": 0.45, "rail-damage": 1.5},
    "valve": {"missing-stroke": 0.15, "late-stroke": 0.5, "leak": 0.065, "sticking": 0.75},
    "ToyCar": {"detuned-motor": 0.03, "imbalance": 0.27, "gear-damage": 1.4, "rattle": 0.8},
    "ToyConveyor": {"slipping-belt": 0.75, "bearing": 0.14, "damaged-roller": 1.8, "detuned-motor": 0.05},
}


def fan(take: Take) -> Wave:
    """Axial fan: shaped flow noise, blade-pass harmonics with slowly wandering speed."""
    me, clip = take.machine, take.clip
    shaft, blades = me.uniform(8.0, 13.0), int(me.integers(5, 9))
    casing, guard, race = me.uniform(300.0, 900.0), me.uniform(1200.0, 2200.0), me.uniform(3000.0, 4800.0)
    curve = slope(me.uniform(-7.0, -4.0)) * bump(casing, 120.0, me.uniform(4.0, 10.0))
    curve *= bump(guard, 400.0, me.uniform(2.0, 6.0))
    hum = me.uniform(0.4, 0.8)

    speed = shaft * (1.0 + 0.01 * clip.standard_normal())
    curve *= slope(0.3 * clip.standard_normal()) * bump(2.0 * guard, 1500.0, clip.normal(0.0, 1.0))
    rotation = turns(clip, take.n, speed, wander=0.003)
    flow = noise(clip, take.n, curve) * (1.0 + 0.2 * cycle(blades * rotation))
    sound: Wave = flow + hum * tones(clip, blades * rotation, 0.75 ** np.arange(10))

    match take.fault:
        case "imbalance":  # strength: depth of the modulation once a turn
            take.add(take.strength * sound * cycle(rotation), 0.0, RATE / 2)
        case "bearing":
            bearing(take, rotation, race)
        case "obstruction":  # strength: RMS of the stalling flow
            surge = np.maximum(drift(take.wear, take.n, 1.5), 0.0)
            stall = noise(take.wear, take.n, band(80.0, 600.0)) * surge
            take.add(take.strength * unit(stall), 80.0, 600.0)
        case "rattle":  # strength: RMS while the guard rattles
            when = episodes(take, 3, 0.5, 1.2)
            at = passages(rotation * 2.0)
            at = during(at + take.wear.normal(0.0, 0.006, len(at)), when)
            blow = burst(take.wear, band(guard, 2.0 * guard), 0.012)
            rattling = strikes(take.n, blow, at, take.wear.lognormal(0.0, 0.4, len(at)))
            take.add(confined(rattling, take.strength, when), guard, 2.0 * guard, lengthened(when, 0.08))
    return sound


def pump(take: Take) -> Wave:
    """Diaphragm pump: flow noise in pulses, motor hum."""
    me, clip = take.machine, take.clip
    pulse, shaft = me.uniform(2.2, 4.5), me.uniform(23.5, 24.8)
    pipe, spray, race = me.uniform(400.0, 1200.0), me.uniform(3500.0, 5000.0), me.uniform(2500.0, 4000.0)
    curve = slope(me.uniform(-5.0, -2.0)) * bump(pipe, 150.0, me.uniform(4.0, 9.0))
    sharpness, floor, hum = me.uniform(1.0, 3.0), me.uniform(0.3, 0.6), me.uniform(0.4, 0.8)

    curve *= slope(0.4 * clip.standard_normal()) * bump(1.6 * pipe, 500.0, clip.normal(0.0, 1.0))
    stroke = turns(clip, take.n, pulse * (1.0 + 0.02 * clip.standard_normal()), wander=0.01)
    rotation = turns(clip, take.n, shaft * (1.0 + 0.004 * clip.standard_normal()), wander=0.002)
    envelope = floor + (0.5 + 0.5 * cycle(stroke)) ** sharpness
    flow = noise(clip, take.n, curve)
    sound: Wave = flow * envelope + hum * tones(clip, 2.0 * rotation, 0.7 ** np.arange(12))

    match take.fault:
        case "leak":  # strength: RMS of the hiss, which falls as the pressure does
            hiss = noise(take.wear, take.n, band(spray, spray + 2000.0)) * (1.0 + 0.5 * cycle(stroke))
            take.add(take.strength * hiss, spray, spray + 2000.0)
        case "cavitation":  # strength: RMS of the crackle of the suction half
            at = np.sort(take.wear.uniform(0.0, take.seconds, int(250 * take.seconds)))
            suction = np.interp(at, np.arange(take.n) / RATE, -cycle(stroke)) > 0.3
            at = at[suction]
            blow = burst(take.wear, band(4500.0, 7500.0), 0.003)
            crackle = strikes(take.n, blow, at, take.wear.lognormal(0.0, 0.7, len(at)))
            take.add(take.strength * unit(crackle), 4500.0, 7500.0)
        case "clogging":  # strength: how much of the pulses' height the blocked outlet takes away
            mean = np.float32(envelope.mean())
            take.add(-min(take.strength, 1.0) * flow * (envelope - mean), 0.0, RATE / 2)
        case "bearing":
            bearing(take, rotation, race)
    return sound


def slider(take: Take) -> Wave:
    """Linear slider: strokes to and fro with sweeping friction, standing still between them."""
    me, clip = take.machine, take.clip
    every, lasting = me.uniform(0.95, 1.3), me.uniform(0.42, 0.6)
    friction, whine = me.uniform(900.0, 2500.0), me.uniform(250.0, 500.0)
    width, knock = me.uniform(200.0, 450.0), me.uniform(350.0, 900.0)
    squeak, dent = me.uniform(2600.0, 4000.0), me.uniform(0.3, 0.7)
    curve, still = slope(me.uniform(-6.0, -3.0)), me.uniform(0.1, 0.2)

    pace = 1.0 + 0.01 * clip.standard_normal()
    count = int(take.seconds / every) + 3
    starts = every * pace * (np.arange(count) - clip.random()) + clip.normal(0.0, 0.012, count)
    lasting *= pace
    spans = [(float(s), float(s) + lasting) for s in starts]
    speed = gate(take.n, spans, edge=0.2 * lasting)
    pitch = speed * (1.0 - 0.2 * gate(take.n, spans[::2]))
    scrape = noise(clip, take.n, band(0.0, width)) * cycle(
        turns(clip, take.n, friction * (0.4 + 0.6 * pitch), wander=0.02, per_second=10.0)
    )
    motor = tones(clip, turns(clip, take.n, whine * pitch), 0.6 ** np.arange(6))
    blow = ring(knock, 0.01)
    knocks = strikes(take.n, blow, starts + lasting, clip.lognormal(0.0, 0.2, count))
    moving = (scrape + 0.5 * motor) * speed + 2.0 * knocks
    sound: Wave = moving + still * noise(clip, take.n, curve)

    strokes = lengthened(spans, 0.07)
    match take.fault:
        case "missing-stroke":  # strength: share of the strokes that fail
            missing_strokes(take, moving, strokes, hum=0.55)
        case "late-stroke":  # strength: delay as a share of the standstill
            late_strokes(take, moving, strokes, take.strength * (every - lasting - 0.07), jerk=1.8)
        case "dry-rail":  # strength: RMS of the squeak in the middle of each stroke
            when = [(s + 0.25 * lasting, s + 0.75 * lasting) for s in starts]
            glide = turns(take.wear, take.n, squeak, wander=0.01, per_second=20.0)
            squeal = cycle(glide)
            squeal *= take.strength * gate(take.n, when, edge=0.01)
            take.add(squeal, squeak - 300.0, squeak + 300.0, when)
        case "rail-damage":  # strength: peak of the blow each time the carriage passes the dent
            at = starts + dent * lasting
            blow = burst(take.wear, band(1500.0, 5000.0), 0.012)
            blows = strikes(take.n, blow, at, take.strength * take.wear.lognormal(0.0, 0.3, count))
            take.add(blows, 1500.0, 5000.0, [(float(s), float(s) + 0.06) for s in at])
    return sound


def valve(take: Take) -> Wave:
    """Solenoid valve: a click to open, a puff of air unlike the last, a click to close, in a quasi-regular pattern."""
    me, clip = take.machine, take.clip
    every, open_for = me.uniform(0.7, 1.1), me.uniform(0.16, 0.26)
    body, seat, port = me.uniform(900.0, 1800.0), me.uniform(2200.0, 3800.0), me.uniform(2500.0, 4500.0)
    weights, puff, coil = me.uniform(0.5, 1.0, 4), me.uniform(0.2, 0.4), me.uniform(0.02, 0.05)

    count = int(take.seconds / every) + 3
    pace = every * (1.0 + 0.01 * clip.standard_normal())
    opens = pace * (np.arange(count) - clip.random()) + clip.normal(0.0, 0.01, count)
    closes = opens + open_for * (1.0 + 0.02 * clip.standard_normal(count))
    force = clip.lognormal(0.0, 0.12, (2, count))
    opening = weights[0] * ring(body, 0.008) + weights[1] * ring(seat, 0.008)
    closing = weights[2] * ring(1.3 * body, 0.006) + weights[3] * ring(0.8 * seat, 0.006)
    clicks = strikes(take.n, opening, opens, force[0]) + strikes(take.n, closing, closes, force[1])
    blowing = gate(take.n, zip(opens, closes, strict=True), edge=0.01)
    air = np.zeros(take.n, np.float32)
    for start, end in zip(opens, closes, strict=True):
        # No puff sounds like the one before: pressure and flow differ, and with them level and colour.
        colour = bump(port * clip.lognormal(0.0, 0.08), 600.0, 12.0) * slope(2.0 + clip.normal(0.0, 1.0))
        for hz in np.exp(clip.uniform(np.log(500.0), np.log(7000.0), 3)):
            colour *= bump(hz, 0.25 * hz, clip.normal(0.0, 3.0))
        breath = noise(clip, round((end - start) * RATE), colour)
        place(air, breath, start, clip.lognormal(0.0, 0.3))
    working = clicks + puff * air * blowing
    sound = working + coil * tones(clip, turns(clip, take.n, 100.0), 0.7 ** np.arange(8))

    strokes = [(float(o) - 0.002, float(c) + 0.06) for o, c in zip(opens, closes, strict=True)]
    match take.fault:
        case "missing-stroke":  # strength: share of the strokes that fail
            missing_strokes(take, working, strokes, hum=0.25)
        case "late-stroke":  # strength: delay as a share of the time at rest
            late_strokes(take, working, strokes, take.strength * (every - open_for - 0.1), jerk=1.4)
        case "leak":  # strength: RMS of the air that escapes while the valve should be shut
            escaping = noise(take.wear, take.n, band(port - 800.0, port + 1200.0)) * (1.0 - blowing)
            shut = [(0.0, opens[0] + 0.01), *zip(closes[:-1] - 0.01, opens[1:] + 0.01, strict=True)]
            take.add(take.strength * escaping, port - 800.0, port + 1200.0, shut)
        case "sticking":  # strength: peak of the scrape before the plunger lets go
            scrape = burst(take.wear, band(600.0, 3000.0), 0.03, attack=0.03)
            gains = take.strength * take.wear.lognormal(0.0, 0.3, count)
            when = [(float(c) - 0.04, float(c) + 0.12) for c in closes]
            take.add(strikes(take.n, scrape, closes - 0.04, gains), 600.0, 3000.0, when)
    return sound


def toy_car(take: Take) -> Wave:
    """Toy car: a small motor and gears that buzz with jitter, and random rattles of the body."""
    me, clip = take.machine, take.clip
    wheel, ratio, teeth = me.uniform(9.0, 14.0), me.uniform(6.0, 8.0), int(me.integers(8, 12))
    shell, gearbox = me.uniform(1500.0, 3000.0), me.uniform(3500.0, 5500.0)
    whine, brushes, looseness = me.uniform(0.5, 0.9), me.uniform(0.3, 0.6), me.uniform(0.5, 1.0)
    curve = slope(me.uniform(-3.0, 0.0)) * bump(shell, 500.0, me.uniform(3.0, 8.0))

    pace = 1.0 + 0.012 * clip.standard_normal()
    curve *= slope(0.4 * clip.standard_normal()) * bump(shell, 800.0, clip.normal(0.0, 1.0))
    jitter = 0.006 * drift(clip, take.n, 25.0) + 0.006 * drift(clip, take.n, 1.0)
    rotation = turns(clip, take.n, wheel * pace * (1.0 + jitter))
    buzz = timbre(clip, 0.85 ** np.arange(30))
    mesh = whine * timbre(clip, 0.7 ** np.arange(6))
    brush = noise(clip, take.n, curve) * (1.0 + 0.3 * cycle(ratio * rotation))
    at = clip.uniform(0.0, take.seconds, clip.poisson(4.0 * take.seconds))
    blow = burst(clip, band(shell, 2.0 * shell), 0.015)
    turning = play(buzz, ratio * rotation) + play(mesh, ratio * teeth * rotation)
    sound = turning + brushes * brush
    sound += strikes(take.n, blow, at, looseness * clip.lognormal(0.0, 0.5, len(at)))

    match take.fault:
        case "detuned-motor":  # strength: by what share the motor turns too slowly
            slow = ratio * (1.0 - min(take.strength, 0.5)) * rotation
            take.add(play(buzz, slow) + play(mesh, teeth * slow) - turning, 0.0, RATE / 2)
        case "imbalance":  # strength: depth of the modulation once a turn of the bent shaft
            take.add(take.strength * sound * cycle(rotation), 0.0, RATE / 2)
        case "gear-damage":  # strength: peak of the blow of the broken tooth, once a turn of the wheel
            at = passages(rotation)
            gains = take.strength * take.wear.lognormal(0.0, 0.2, len(at))
            take.add(strikes(take.n, ring(gearbox, 0.004), at, gains), gearbox - 800.0, gearbox + 800.0)
        case "rattle":  # strength: peak of the rattles of a loose body
            when = episodes(take, 3, 0.6, 1.5)
            at = during(take.wear.uniform(0.0, take.seconds, int(30 * take.seconds)), when)
            blow = burst(take.wear, band(0.5 * shell, shell), 0.02)
            gains = take.strength * take.wear.lognormal(0.0, 0.5, len(at))
            take.add(strikes(take.n, blow, at, gains), 0.5 * shell, shell, lengthened(when, 0.1))
    return sound


def toy_conveyor(take: Take) -> Wave:
    """Toy conveyor: thumps of the rollers in turn, a motor, the noise of the belt."""
    me, clip = take.machine, take.clip
    roller, rollers, ratio = me.uniform(3.5, 6.0), int(me.integers(3, 6)), me.uniform(18.0, 25.0)
    thump, frame = me.uniform(110.0, 220.0), me.uniform(600.0, 1100.0)
    race, squeal = me.uniform(3000.0, 5000.0), me.uniform(1300.0, 2200.0)
    hum, rub = me.uniform(0.4, 0.8), me.uniform(0.5, 0.9)
    weights = me.uniform(0.6, 1.4, rollers)
    curve = slope(me.uniform(-4.0, -1.0)) * bump(frame, 200.0, me.uniform(4.0, 9.0))

    pace = 1.0 + 0.012 * clip.standard_normal()
    curve *= slope(0.4 * clip.standard_normal()) * bump(2.5 * frame, 1000.0, clip.normal(0.0, 1.0))
    rotation = turns(clip, take.n, roller * pace, wander=0.006)
    at = passages(rotation)
    blow = ring(thump, 0.03)
    place(blow, ring(frame, 0.015), 0.0, gain=0.4)
    thumps = strikes(take.n, blow, at, np.resize(weights, len(at)) * clip.lognormal(0.0, 0.15, len(at)))
    drive = hum * timbre(clip, 0.8 ** np.arange(24))
    running = play(drive, ratio * rotation)
    belt = noise(clip, take.n, curve) * (1.0 + 0.1 * drift(clip, take.n, 8.0))
    sound = 2.0 * thumps + running + rub * belt

    match take.fault:
        case "slipping-belt":  # strength: RMS of the squeal while the belt slips
            when = episodes(take, 2, 0.4, 1.0)
            pitch = turns(take.wear, take.n, squeal, wander=0.03, per_second=12.0)
            slip = take.strength * cycle(pitch) * gate(take.n, when, edge=0.02)
            take.add(slip, 0.85 * squeal, 1.15 * squeal, when)
        case "bearing":
            bearing(take, rotation, race)
        case "damaged-roller":  # strength: peak of the click of one roller among the others
            hits = at[int(take.wear.integers(rollers)) :: rollers]
            click = burst(take.wear, band(1500.0, 5000.0), 0.01)
            gains = take.strength * take.wear.lognormal(0.0, 0.2, len(hits))
            take.add(strikes(take.n, click, hits, gains), 1500.0, 5000.0, [(h, h + 0.05) for h in hits])
        case "detuned-motor":  # strength: by what share the motor turns too fast for the belt
            take.add(play(drive, ratio * (1.0 + take.strength) * rotation) - running, 0.0, 3000.0)
    return sound


MACHINES: dict[str, Callable[[Take], Wave]] = {
    "fan": fan,
    "pump": pump,
    "slider": slider,
    "valve": valve,
    "ToyCar": toy_car,
    "ToyConveyor": toy_conveyor,
}
