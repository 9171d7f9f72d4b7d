"""Measurements of a face, none of which is certain enough for a caption."""

UNSURE = {"smile": 0.4, "eyes_closed": 0.3, "mouth_open": 0.15, "glasses": None, "gaze_x": None, "gaze_y": 0.0}
UNSURE |= {"background": 0.5, "light": 0.5, "light_side": 0.2, "monochrome": False}
