"""What phantom reports say besides their findings: negations, normal anatomy, indications, comparisons, impressions.

Negations use standard forms ("no", "there is no evidence of", "is not seen", "without"), so that a phrase-and-negation
extractor reads them.
"""

# Sentences that deny several findings at once.
PAIRS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Pleural Effusion", "Pneumothorax", "Consolidation"),
        (
            "No focal consolidation, pleural effusion, or pneumothorax.",
            "There is no focal consolidation, pneumothorax, or pleural effusion.",
            "No pneumothorax, pleural effusion or consolidation is seen.",
        ),
    ),
    (
        ("Pleural Effusion", "Pneumothorax"),
        (
            "No pleural effusion or pneumothorax.",
            "There is no pneumothorax or pleural effusion.",
            "No evidence of pneumothorax or pleural effusion.",
            "Neither pleural effusion nor pneumothorax is seen.",
            "Negative for pneumothorax or pleural effusion.",
        ),
    ),
    (
        ("Consolidation", "Pleural Effusion"),
        (
            "No focal consolidation or pleural effusion.",
            "There is no consolidation or pleural effusion.",
            "Without consolidation or effusion.",
        ),
    ),
    (
        ("Edema", "Consolidation"),
        ("No consolidation or pulmonary edema.", "There is no pulmonary edema or focal consolidation."),
    ),
)

NEGATIVE: dict[str, tuple[str, ...]] = {
    "Pneumothorax": (
        "No pneumothorax.",
        "There is no pneumothorax.",
        "No evidence of pneumothorax.",
        "Pneumothorax is not seen.",
        "There is no evidence of pneumothorax.",
        "No visible pneumothorax.",
    ),
    "Pleural Effusion": (
        "No pleural effusion.",
        "There is no pleural effusion.",
        "There is no evidence of pleural effusion.",
        "No effusion is seen.",
        "Pleural effusion is not seen.",
        "No large or small pleural effusion.",
    ),
    "Consolidation": (
        "No focal consolidation.",
        "There is no focal consolidation.",
        "Lungs are clear of consolidation.",
        "No evidence of consolidation.",
        "Without focal consolidation.",
        "No airspace consolidation is identified.",
    ),
    "Edema": (
        "No pulmonary edema.",
        "There is no pulmonary edema.",
        "No evidence of edema.",
        "Without vascular congestion.",
        "There is no pulmonary vascular congestion.",
        "No interstitial edema.",
    ),
    "Fracture": (
        "No acute fracture.",
        "No displaced rib fracture is seen.",
        "There is no evidence of fracture.",
        "No fracture.",
        "Rib fracture is not seen.",
        "There is no rib fracture.",
    ),
    "Lung Lesion": (
        "No pulmonary nodule or mass.",
        "There is no suspicious nodule.",
        "No lung mass is identified.",
        "No evidence of a nodule or mass.",
        "No discrete nodule.",
        "There is no mass.",
    ),
    "Pneumonia": (
        "No evidence of pneumonia.",
        "There is no pneumonia.",
        "No findings to suggest pneumonia.",
        "Without evidence of pneumonia.",
        "Negative for pneumonia.",
        "Pneumonia is not seen.",
    ),
    "Cardiomegaly": (
        "The cardiac silhouette is not enlarged.",
        "No cardiomegaly.",
        "There is no cardiomegaly.",
        "No evidence of cardiomegaly.",
        "Without cardiomegaly.",
        "The heart is not enlarged.",
    ),
    "Atelectasis": (
        "No atelectasis.",
        "There is no atelectasis.",
        "Without atelectasis.",
        "No evidence of atelectasis.",
        "Atelectasis is not seen.",
        "No basilar atelectasis.",
    ),
    "Pleural Other": (
        "No pleural thickening.",
        "There is no pleural thickening.",
        "No evidence of pleural thickening.",
        "Without pleural thickening.",
        "Pleural thickening is not seen.",
        "No apical pleural thickening.",
    ),
}

# (labels whose presence forbids the sentence, "*" = any disease; sentences)
NORMAL: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Cardiomegaly",),
        (
            "The heart size is normal.",
            "Cardiac silhouette is within normal limits.",
            "Heart size is within normal limits.",
            "The heart is normal in size.",
            "Normal heart size.",
            "Cardiac size is unremarkable.",
        ),
    ),
    (
        ("Enlarged Cardiomediastinum",),
        (
            "The mediastinal contours are unremarkable.",
            "Mediastinal contours are within normal limits.",
            "The mediastinum is normal in width.",
            "Normal mediastinal contour.",
            "The hilar and mediastinal contours are normal.",
            "Mediastinal silhouette is normal.",
        ),
    ),
    (
        ("Fracture",),
        (
            "The osseous structures are unremarkable.",
            "Bony structures are intact.",
            "Visualized osseous structures are within normal limits.",
            "The bones are intact.",
            "No acute osseous abnormality.",
            "Imaged bony thorax is unremarkable.",
        ),
    ),
    (
        ("*",),
        (
            "The lungs are clear.",
            "Both lungs are clear and well expanded.",
            "Lungs are well expanded and clear.",
            "The lungs are clear bilaterally.",
            "Clear lungs.",
            "The lungs are normally inflated and clear.",
        ),
    ),
    (
        ("Edema",),
        (
            "Pulmonary vascularity is normal.",
            "The pulmonary vasculature is within normal limits.",
            "Normal pulmonary vasculature.",
            "Pulmonary vessels are normal in caliber.",
        ),
    ),
    (
        ("Pneumothorax", "Pleural Effusion"),
        ("The trachea is midline.", "Midline trachea.", "No tracheal deviation.", "The trachea is not deviated."),
    ),
    (
        (),
        (
            "The visualized upper abdomen is unremarkable.",
            "Soft tissues are unremarkable.",
            "The aorta is unremarkable.",
        ),
    ),
)

SETTING: dict[str, tuple[str, ...]] = {
    "reason": (
        "shortness of breath",
        "cough and fever, evaluate for pneumonia",
        "chest pain, rule out pneumothorax",
        "a fall",
        "dyspnea, history of heart failure",
        "hypoxia",
        "a history of pneumonia",
        "preoperative evaluation",
        "weakness",
        "known malignancy",
        "fever",
        "trauma",
    ),
    "comparison": (
        "None.",
        "Prior chest radiograph.",
        "Radiograph of the previous day.",
        "No prior studies are available.",
        "Chest radiograph from an outside facility.",
        "Prior radiograph showed pneumonia.",
    ),
    "technique": (
        "Frontal view of the chest was obtained.",
        "Single frontal view of the chest.",
        "Comparison is made with the prior radiograph.",
        "A frontal radiograph of the chest was acquired.",
        "The prior study is available for comparison.",
    ),
}

IMPRESSIONS: dict[str, tuple[str, ...]] = {
    "normal": (
        "No acute cardiopulmonary abnormality.",
        "No acute cardiopulmonary process.",
        "Normal chest radiograph.",
        "No acute disease.",
        "No acute intrathoracic process.",
        "No radiographic evidence of acute disease.",
    ),
    "certain": (
        "{what}.",
        "{what} is present.",
        "Findings of {what}.",
        "{what} as described.",
    ),
    "hedged": (
        "Possible {what}.",
        "{what} cannot be excluded.",
        "Questionable {what}.",
        "Suspected {what}.",
    ),
}
