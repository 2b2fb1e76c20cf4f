"""Looking at what a finder brought back."""


def reasons(findings, subject):
    return [item.reason for item in findings.left_out if item.subject == subject]


def reasons_of(left_out):
    return [item.reason for item in left_out]


def faults(findings):
    return {(item.subject, item.reason) for item in findings.left_out if item.is_fault}


def summary(findings):
    return [(pair.name, pair.mri.files[0].name, pair.pet.files[0].name) for pair in findings.pairs]
