from .audit import (
    CLASS_HEADER as CLASS_HEADER,
    IMAGE_HEADER as IMAGE_HEADER,
    REDUNDANT_HEADER as REDUNDANT_HEADER,
    audit_bank as audit_bank,
)
from .report import write_audit as write_audit
