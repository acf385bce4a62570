from .export import (
    ExportedFile as ExportedFile,
    bank_file as bank_file,
    export_results as export_results,
    exported_files as exported_files,
    zipped as zipped,
)
from .faults import Conflict as Conflict, NotThere as NotThere
from .jobs import Job as Job, Jobs as Jobs
from .next_image import Suggestion as Suggestion, suggest as suggest
from .settings import ExportConfig as ExportConfig, WorkspaceConfig as WorkspaceConfig
from .thumbnails import crop as crop, picture as picture, thumbnail as thumbnail
from .workspace import Workspace as Workspace
