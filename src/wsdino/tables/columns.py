"""The names of columns: what every table of sites, wells or treatments calls the same thing."""

from __future__ import annotations

PREFIX = "Metadata_"
PLATE, WELL, SITE = "Metadata_Plate", "Metadata_Well", "Metadata_Site"
BATCH, COMPOUND, CONCENTRATION = "Metadata_Batch", "Metadata_Compound", "Metadata_Concentration"
MOA, CONTROL = "Metadata_MoA", "Metadata_Control"
TREATMENT = (COMPOUND, CONCENTRATION)
