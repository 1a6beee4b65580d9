"""Recognize by their responses projects to which Heat lists the deployments of others.

Heat lists the deployments of every project to an administrator, and no row names its project. Roles tell most
administrators' tokens, but roles can be unknown, and a policy can give such rights to another role. Two projects of a
cloud that list nearly the same deployments are then the only sign.
"""

from __future__ import annotations

from collections.abc import Iterator


class SampleIndex:
    """The samples of the projects' last responses, to find projects that list nearly the same deployments.

    A sample is the smallest hashes of a response's ids, sorted. Two responses are nearly the same if at least half of
    the hashes in their samples are equal. A look-up takes one access for each hash, however many projects there are.
    """

    def __init__(self) -> None:
        self._samples: dict[str, tuple[int, ...]] = {}
        self._holders: dict[int, tuple[str, ...]] = {}
        """The projects by hash. More than half of each sample is indexed, so a sample that shares at least half of it
        has an indexed hash."""

    def put(self, project_id: str, sample: tuple[int, ...]) -> None:
        """Replace the sample of a project."""
        if self._samples.get(project_id) == sample:
            return
        self.drop(project_id)
        if sample:
            self._samples[project_id] = sample
            alone = (project_id,)  # one tuple for all hashes
            for each in self._indexed(sample):
                others = self._holders.get(each)
                self._holders[each] = alone if others is None else (*others, project_id)

    def drop(self, project_id: str) -> None:
        """Forget a project."""
        for each in self._indexed(self._samples.pop(project_id, ())):
            if others := tuple(other for other in self._holders[each] if other != project_id):
                self._holders[each] = others
            else:
                del self._holders[each]

    def similar(self, project_id: str, sample: tuple[int, ...]) -> list[str]:
        """The other projects whose responses were nearly the same, sorted."""
        candidates = {other for each in sample for other in self._holders.get(each, ()) if other != project_id}
        return sorted(other for other in candidates if _nearly_same(sample, self._samples[other]))

    @staticmethod
    def _indexed(sample: tuple[int, ...]) -> Iterator[int]:
        return iter(sample[: len(sample) // 2 + 1])


def _nearly_same(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return 2 * len(set(one).intersection(other)) >= max(len(one), len(other), 1)
