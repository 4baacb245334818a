"""A text works out once what is asked of it."""

from distill.text.text import Text


def test_a_text_has_words_letters_sentences_and_prose():
    text = Text("She sells １６ mangoes. 她有16个苹果。 `print(1)`")
    assert text.folded.startswith("she sells 16 mangoes.")
    assert text.words[:4] == ("she", "sells", "16", "mangoes")
    assert text.letters["Han"] == 15 and text.sentences[0].raw == "She sells １６ mangoes."
    assert "print" not in text.prose.raw and text.prose.letters["Latin"] == 15


def test_a_text_that_quotes_nothing_is_itself_without_quotations():
    assert (
        Text("Methali: “千里之行，始于足下。” Ndiyo.").without_quotations.raw == "Methali:   Ndiyo."
    )
    text = Text("One. Two.")
    assert text.without_quotations is text


def test_what_was_asked_once_is_kept_and_texts_are_equal_by_what_they_say():
    text = Text("One. Two.")
    assert text.words is text.words and text.prose is text.prose
    assert text == Text("One. Two.") and "words" not in vars(Text("One. Two."))
