"""Random numbers of synthetic faces: three integers hashed to named parameters.

A parameter is computed from `(seed, identity)` or `(seed, identity, k)` alone, for an
array of images at once: a generator object per image would cost more than the drawing.
Lengths are in half head heights, y points down, the origin is amid the head.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _table(text):
    """Returns name -> (low, high); a name's place selects its random numbers."""
    words = text.split()
    ranges = zip(map(float, words[1::3]), map(float, words[2::3]))
    return dict(zip(words[::3], ranges))


PERSON = _table("""
    head_width 0.70 0.86     skull 0.94 1.04          chin 0.90 1.10
    jaw_taper 0.10 0.42      jaw_square 0.0 0.7       depth 0.55 0.75
    skin_tone 0.0 1.0        skin_warm -0.03 0.03     hair_tone 0.0 1.0
    hair_light 0.8 1.25      hair_volume 0.03 0.17    hair_side -0.03 0.12
    hair_length -0.5 1.3     hairline -0.85 -0.52     hairline_bend -0.1 1.1
    hair_part -0.30 0.30     fringe -0.03 0.09        fringe_rate 3.0 9.0
    ear_size 0.13 0.21       ear_y 0.0 0.14           ear_out -0.04 0.07
    eye_x 0.29 0.40          eye_y -0.08 0.06         eye_length 0.14 0.21
    eye_upper 0.05 0.105     eye_lower 0.03 0.075     eye_slant -0.22 0.22
    eye_tone 0.0 1.0         iris 0.060 0.085         lash 0.008 0.030
    socket 0.0 0.45          brow_gap 0.16 0.27       brow_length 0.15 0.25
    brow_thick 0.014 0.050   brow_slant -0.26 0.20    brow_arch 0.0 2.6
    brow_out -0.03 0.05      brow_dark 0.55 1.0       nose_y 0.30 0.44
    nose_width 0.085 0.165   nose_tip 0.05 0.11       nose_bridge 0.03 0.075
    nostril 0.016 0.036      nose_strength 0.35 0.9   mouth_y 0.56 0.70
    mouth_length 0.20 0.33   lip_upper 0.020 0.060    lip_lower 0.030 0.080
    lip_bend -0.04 0.04      lip_red 0.1 0.6          cheek 0.0 0.40
    cheek_y 0.25 0.42        fold 0.0 0.55            beard 0.0 1.0
    beard_dark 0.25 0.8      beard_line 0.15 0.50     moustache 0.0 1.0
    glasses 0.0 1.0          glasses_width 0.20 0.27  glasses_height 0.13 0.21
    glasses_rim 0.012 0.030  mole_0 0.0 1.0           mole_0_x -0.55 0.55
    mole_0_y -0.45 0.85      mole_1 0.0 1.0           mole_1_x -0.55 0.55
    mole_1_y -0.45 0.85
""")
PHOTOGRAPH = _table("""
    yaw -0.42 0.42           pitch -0.26 0.26         roll -0.11 0.11
    zoom 1.00 1.20           shift_x -0.09 0.09       shift_y -0.09 0.09
    blur 0.0 1.0             noise 0.0 1.0            noise_at 0.0 1.0
    exposure 0.62 1.12       light_x -0.42 0.42       light_y -0.35 0.25
    shadow -1.2 0.55         shadow_x -1.0 1.0        shadow_y -1.0 1.0
    shadow_at -0.4 0.4       warmth -0.14 0.14        tint -0.06 0.06
    saturation 0.45 1.1      lift 0.0 0.10            smile -0.05 0.13
    stretch 0.9 1.15         mouth_open -0.10 0.14    teeth 0.0 1.0
    eye_open 0.45 1.15       brow_raise -0.035 0.055  brow_frown -0.14 0.14
    gaze_x -0.05 0.05        gaze_y -0.02 0.02        make_up -0.15 0.3
    hair_move -0.07 0.07     hair_puff -0.03 0.05     stubble 0.5 1.1
    wears 0.0 1.0            occluded 0.0 1.0         block_x -0.9 0.9
    block_y -0.9 0.9         block_width 0.22 0.50    block_height 0.18 0.42
    block_turn -0.7 0.7      scene_x -1.0 1.0         scene_y -1.0 1.0
    scene_edge -0.8 0.8
    wall_r 0.15 0.8          wall_g 0.15 0.8          wall_b 0.15 0.8
    far_r 0.15 0.8           far_g 0.15 0.8           far_b 0.15 0.8
    cloth_r 0.15 0.8         cloth_g 0.15 0.8         cloth_b 0.15 0.8
    block_r 0.15 0.8         block_g 0.15 0.8         block_b 0.15 0.8
""")


def splitmix64(states: np.ndarray) -> np.ndarray:
    """Returns the first output of SplitMix64 for each state, both uint64.

    Output j of the generator started at s is that of `s + j * _GOLDEN` modulo 2^64.

    Reference:
        Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
        2014, with the constants of Vigna's public-domain splitmix64.c.
    """
    z = states + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _draw(keys, ranges):
    """Returns name -> uniform numbers `(n, 1, 1)`, one for each key."""
    counters = np.arange(len(ranges), dtype=np.uint64) * _GOLDEN
    # 23 bits and a half are exact in float32; with 24 the largest would round to 1.
    bits = splitmix64(keys[None, :] + counters[:, None]) >> np.uint64(41)
    units = (bits.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    low, high = np.array(list(ranges.values()), np.float32).T[:, :, None]
    return dict(zip(ranges, (low + (high - low) * units)[:, :, None, None]))


def parameters(
    seed: int, identities: np.ndarray, samples: np.ndarray
) -> SimpleNamespace:
    """Returns the numbers of n pictures as attributes, float32 `(n, 1, 1)` each.

    Those of `PERSON` are decided by seed and identity, those of `PHOTOGRAPH` by sample
    too.
    """
    seeds = np.full(identities.shape, seed, np.uint64)
    person = splitmix64(splitmix64(seeds) ^ identities.astype(np.uint64))
    photo = splitmix64(person ^ splitmix64(samples.astype(np.uint64)))
    return SimpleNamespace(**_draw(person, PERSON), **_draw(photo, PHOTOGRAPH))
