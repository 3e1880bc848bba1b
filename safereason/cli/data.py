"""`safereason data`: commands that list sources, build a recipe's data, and show rows."""

from safereason.cli import groups

app = groups.group(
    "List sources, build a recipe's data, and look at rows.",
    groups.imported("data ls", "data_ls:list_sources"),
    groups.imported("data build", "data_build:build"),
    groups.imported("data show", "data_show:show_rows"),
    groups.imported("data traces", "data_traces:traces"),
    groups.imported("data overlap", "data_overlap:overlap"),
    groups.imported("data verify", "data_verify:verify"),
)
