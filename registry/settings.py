"""Where the registry keeps things. The only place in this package that reads the environment."""

from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_home() -> Path:
    return user_data_path("lorikeet", appauthor=False)


class RegistrySettings(BaseSettings):
    """The data folder, the database and the shared store.

    `home` (LORIKEET_HOME; default: the platform's user data folder) holds bases, adapters and,
    unless `database_url` (LORIKEET_DATABASE_URL; `postgresql://…`) says otherwise, the SQLite file
    `registry.db`. With `store_url` (LORIKEET_STORE_URL; `s3://bucket/prefix`, `gs://…`,
    `file:///…`) adapters and files lie there, and `home` keeps at most `cache_bytes`
    (LORIKEET_CACHE_BYTES) of them. With `require_certificate` (LORIKEET_REQUIRE_CERTIFICATE) only a
    version whose certificate has passed can be promoted to `prod`.
    """

    model_config = SettingsConfigDict(
        env_prefix="LORIKEET_", env_ignore_empty=True, frozen=True, extra="forbid"
    )

    home: Path = Field(default_factory=_default_home)
    database_url: str | None = None
    store_url: str | None = None
    cache_bytes: int = Field(default=50_000_000_000, ge=1)
    require_certificate: bool = False

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @property
    def bases(self) -> Path:
        """Folder of the base models that were made or cached here."""
        return self.home / "bases"

    @property
    def adapters(self) -> Path:
        """Folder of the published adapter versions, `<name>/<number>-<digest12>/`."""
        return self.home / "adapters"

    @property
    def staging(self) -> Path:
        """Folder of the versions that are being made."""
        return self.adapters / ".staging"

    @property
    def files(self) -> Path:
        """Folder of the files that were sent for training, and of jobs' metrics."""
        return self.home / "files"

    @property
    def cache(self) -> Path:
        """Folder of what was fetched from the shared store."""
        return self.home / "cache"

    @property
    def jobs(self) -> Path:
        """Folder of what workers keep of the jobs that they work on, one folder each."""
        return self.home / "jobs"

    @property
    def runs(self) -> Path:
        """Folder of the training runs, one folder each, with their checkpoints and reports."""
        return self.home / "runs"

    @property
    def url(self) -> str:
        """The database as an SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.home / 'registry.db'}"
