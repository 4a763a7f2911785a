# Written by docs/public_names.py from __init__.py.
from amodal.doctor.diagnosis import Diagnosis as Diagnosis
from amodal.doctor.diagnosis import diagnose as diagnose
from amodal.doctor.finding import Finding as Finding
from amodal.doctor.subject import Subject as Subject
from amodal.doctor.subject import open_subject as open_subject

__all__ = [
    "Diagnosis",
    "Finding",
    "Subject",
    "diagnose",
    "open_subject",
]
