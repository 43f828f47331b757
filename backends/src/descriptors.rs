//! The limit on open files.

/// Raises this process's soft limit to its hard one. Each client costs two descriptors on either side of a tunnel, and the
/// usual soft limit of 1,024 is for programs that use select(2). For a program's `main`: it concerns the whole process.
pub fn raise_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "cannot raise the limit on open files");
        }
    }
}
