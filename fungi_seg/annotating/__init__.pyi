from .faults import Conflict as Conflict, NotThere as NotThere
from .settings import ExportConfig as ExportConfig, WorkspaceConfig as WorkspaceConfig
from .workspace import Workspace as Workspace
