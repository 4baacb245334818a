"""The fixtures of tests that write files of students."""

from format_helpers import model_folder, sentences  # noqa: F401 - fixtures of this folder
