import hashlib, json
from pathlib import Path
def state(project, kind):
    k,_,n = kind.partition(":")
    h=lambda p: hashlib.sha256(Path(p).read_bytes()).hexdigest()[:16] if Path(p).is_file() else "none"
    if k=="source":
        s=project.settings.source
        return h(project.root/s)+h(project.root/"acquisition.yaml") if not s.startswith("demo:") else s+h(project.root/"acquisition.yaml")
    if k=="registry":
        from mlwb.release.registry import versions
        r=next((r for r in versions(project) if n in r.aliases),None)
        return f"{r.version} {r.digest}" if r else "none"
    if k=="log": return "x"
    if k=="table": return "none"
    if k=="file": return h(project.root/n)
