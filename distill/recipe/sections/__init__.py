"""The sections of a recipe: teacher, student, and one for each stage that has settings.

Every field carries its description. Fields marked `machine=True` say how a machine does the work,
not what comes out: changing them never makes a finished stage stale.
"""

from distill.recipe.sections.benchmarks import BenchmarkUse
from distill.recipe.sections.capture import Capture
from distill.recipe.sections.evaluate import Evaluate
from distill.recipe.sections.generate import Generate
from distill.recipe.sections.launch import Launch
from distill.recipe.sections.quantize import Format, Quantize
from distill.recipe.sections.report import Report
from distill.recipe.sections.rounds import Guards, Mix, Rounds
from distill.recipe.sections.routed_teacher import RoutedTeacher
from distill.recipe.sections.safety import OURS, SETS, Gates, Safety, SafetySet
from distill.recipe.sections.student import CountedText, Student, Vocabulary
from distill.recipe.sections.teacher import Teacher
from distill.recipe.sections.train import Divergence, Train

__all__ = [
    "OURS",
    "SETS",
    "BenchmarkUse",
    "Capture",
    "CountedText",
    "Divergence",
    "Evaluate",
    "Format",
    "Gates",
    "Generate",
    "Guards",
    "Launch",
    "Mix",
    "Quantize",
    "Report",
    "Rounds",
    "RoutedTeacher",
    "Safety",
    "SafetySet",
    "Student",
    "Teacher",
    "Train",
    "Vocabulary",
]
