"""What counts as a setting of an entry."""

from benchmarks.entries import settings_of
from ddllm.config import default_config, resolve


def test_stages_that_a_run_does_not_have_are_no_settings_of_it():
    config = default_config()
    config.merge.how, config.text.route, config.distill.passes, config.data.length = "join", "splice", 3, 48
    changed = resolve(config)
    assert settings_of(changed, "full") == {"data.length": 48}
    assert settings_of(changed, "select") == {"data.length": 48}
    assert settings_of(changed, "distilled") == {"data.length": 48, "distill.passes": 3, "text.route": "splice"}
    assert settings_of(changed, "distilled", "merge")["merge.how"] == "join"
