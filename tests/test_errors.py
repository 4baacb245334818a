"""The hint at what a misspelt name may have meant."""

from distill.errors import did_you_mean, nearest_names

FORMATS = ["f16", "q8_0", "q4_0", "Raspberry Pi 5", "Raspberry Pi 4"]


def test_the_nearest_name_is_asked_for_as_it_is_spelt():
    assert did_you_mean("q4_k_m", FORMATS) == "did you mean q4_0?"
    assert did_you_mean("raspberry pi 6", FORMATS) == "did you mean Raspberry Pi 5?"


def test_capitals_and_dashes_are_no_difference():
    assert nearest_names("Q8-0", FORMATS) == ["q8_0"]
    assert nearest_names("apache_2.0", ["apache-2.0"]) == ["apache-2.0"]


def test_several_names_can_be_near():
    assert (
        did_you_mean("raspberry 5", FORMATS, num_hints=2)
        == "did you mean Raspberry Pi 5 or Raspberry Pi 4?"
    )


def test_where_nothing_is_near_the_message_goes_on_with_what_is_known():
    assert did_you_mean("toaster", FORMATS) == "" and did_you_mean("x", []) == ""
    assert did_you_mean("batch", ["batch_tokens"], cutoff=0.5) == "did you mean batch_tokens?"
