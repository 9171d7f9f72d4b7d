"""Mistakes in scenes and places, each with the message that reports it."""

PORTRAIT_MISTAKES = {
    "scene without the person": (
        ["portraits"],
        {"scenes": {"park": {"prompt": "a park"}}},
        "portraits.scenes.park: prompt 'a park' lacks {subject}; expected it in every prompt",
    ),
    "scene with an unknown key": (
        ["portraits"],
        {"scenes": {"park": {"prompt": "photo of {subject}", "wdith": 512}}},
        "portraits.scenes.park.wdith: unknown key; did you mean width?",
    ),
    "scene of a size no model draws": (
        ["portraits"],
        {"scenes": {"park": {"prompt": "photo of {subject}", "width": 500}}},
        "portraits.scenes.park.width: found 500; expected a multiple of 8",
    ),
    "scene that calls the person in the negative prompt": (
        ["portraits"],
        {"scenes": {"park": {"prompt": "photo of {subject}", "negative_prompt": "OHWX"}}},
        "portraits.scenes.park.negative_prompt: 'OHWX' has 'ohwx', which calls ava; leave it out",
    ),
    "seed twice in a scene": (
        ["portraits"],
        {"scenes": {"park": {"prompt": "photo of {subject}", "seeds": [3, 1, 3]}}},
        "portraits.scenes.park: seed 3 stands there twice; expected each seed once",
    ),
    "place without consent": (
        ["places"],
        {"wall": {"pictures": "photos"}},
        "places.wall.consent: missing",
    ),
    "place without pictures": (
        ["places"],
        {"wall": {"pictures": "empty", "consent": "self"}},
        "places.wall.pictures: no photo in 'empty'",
    ),
    "place of nobody": (
        ["places"],
        {"wall": {"pictures": "photos", "consent": "self", "faces": {"mia": 1}}},
        "places.wall.faces: no subject 'mia'; expected names of subjects",
    ),
    "place with a face that is neither number nor point": (
        ["places"],
        {"wall": {"pictures": "photos", "consent": "self", "faces": {"ava": "left"}}},
        "places.wall.faces.ava: found 'left'; expected largest, a number counted from the left, or a point",
    ),
}
