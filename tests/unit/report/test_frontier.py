"""The frontier of a run is the settings that no other setting beats."""

from likeness.report.run_page import frontier


def test_the_frontier_is_what_no_other_setting_beats():
    cells = [
        {"identity": identity, "prompt_score": prompt}
        for identity, prompt in [(0.2, 0.9), (0.5, 0.9), (0.4, 0.95), (0.7, 0.6), (0.7, 0.5), (0.6, 0.6), (0.1, 0.2)]
    ]
    assert [(c["identity"], c["prompt_score"]) for c in frontier(cells)] == [(0.4, 0.95), (0.5, 0.9), (0.7, 0.6)]
