"""Which rule decides which layer: first match wins, and every rule must decide something."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from exporter.errors import Place, RecipeError
from exporter.layers import LayerInfo, ModelLayers
from exporter.recipe.folding import fold_names, listed
from exporter.recipe.suggesting import Suggestion, suggest
from exporter.recipe.types import Recipe, Rule

Problem = tuple[Place, str]
_EXPLAINED = RecipeError.SHOWN  # rules without a layer that are explained; the rest are only counted


def decide_layers(recipe: Recipe, model: ModelLayers) -> dict[str, Rule]:
    """Layer name -> its rule, for every layer; a tied layer has its owner's.

    Raises RecipeError for a rule that decides nothing (it matches no layer, earlier rules took all its
    layers, or it matches only a tied layer), for a choice in braces that matches nothing, and for a
    layer without a rule.
    """
    matching = _Matching(recipe, model)
    for rule in recipe.rules:
        matching.take(rule)
    if problems := matching.problems():
        raise RecipeError(problems)
    decided = matching.decided
    return {layer.name: decided[layer.tied_to or layer.name] for layer in model.layers}


@dataclass
class _Matching:
    recipe: Recipe
    model: ModelLayers
    decided: dict[str, Rule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = [layer.name for layer in self.model.layers]
        self.all_names = "\n".join(self.names)
        self.undecided = {layer.name: layer for layer in self.model.layers if layer.tied_to is None}
        self.barren: list[Rule] = []

    def take(self, rule: Rule) -> None:
        """Give the rule those of its layers that no earlier rule has."""
        taken = [layer.name for layer in self.fitting(rule, self.undecided.values())]
        for name in taken:
            del self.undecided[name]
            self.decided[name] = rule
        if not taken:
            self.barren.append(rule)

    def fitting(self, rule: Rule, layers: Iterable[LayerInfo]) -> list[LayerInfo]:
        """The layers that the rule matches. A literal part that no name holds settles it at once, which
        keeps a recipe of thousands of rules fast."""
        if rule.match is not None and rule.match.literal not in self.all_names:
            return []
        return [layer for layer in layers if _fits(rule, layer)]

    def problems(self) -> list[Problem]:
        """Everything that is wrong, once all rules have had their turn."""
        foreign = self.foreign_recipe()
        if foreign:
            return [foreign]
        problems = [(rule.place, self.explain(rule)) for rule in self.barren[:_EXPLAINED]]
        problems += [(rule.place, f"{rule.label} decides no layer") for rule in self.barren[_EXPLAINED:]]
        for rule in {rule.index: rule for rule in self.decided.values()}.values():
            problems += self.unused_choices(rule)
        if self.undecided:
            how = 'add a last rule, {match: "**", scheme: …}'
            problems.append((self.recipe.rules_place, f"no rule matches {listed(self.undecided)}; {how}"))
        return problems

    def foreign_recipe(self) -> Problem | None:
        """One message where every rule with a name in it misses, and none is a near miss."""
        named = [rule for rule in self.recipe.rules if rule.match is not None and rule.match.literal]
        barren = {rule.index for rule in self.barren}
        if not named or any(rule.index not in barren for rule in named):
            return None
        if any(self.fitting(rule, self.model.layers) for rule in named):
            return None
        near = (suggest(rule.match, self.names) for rule in named[:_EXPLAINED] if rule.match is not None)
        if any(suggestion.pattern for suggestion in near):
            return None
        first = f"; the first is '{named[0].match.text}'" if named[0].match else ""
        text = f"no rule that names a layer matches this model ({self.model.description}){first}"
        layers = ", ".join(fold_names(self.names)[:12])
        return named[
            0
        ].place, f"{text}: the recipe is for another architecture; this one's layers are {layers}"

    def explain(self, rule: Rule) -> str:
        """Why a rule decides nothing."""
        matched = self.fitting(rule, self.model.layers)
        owners = [layer.name for layer in matched if layer.tied_to is None]
        if owners:
            takers = {self.decided[name].index: self.decided[name] for name in owners}
            return (
                f"{rule.label} decides no layer: {listed(owners)} "
                f"{'is' if len(owners) == 1 else 'are'} taken by {_labels(takers.values())}; "
                f"move it above {'that' if len(takers) == 1 else 'those'}, or remove it"
            )
        if matched:
            return f"{rule.label} decides no layer: {'; '.join(self.tied(layer) for layer in matched[:3])}"
        return f"{rule.label} matches no layer: {self.miss(rule)}"

    def tied(self, layer: LayerInfo) -> str:
        """Whose rule decides a tied layer."""
        owner = layer.tied_to or layer.name
        by = self.decided[owner].label if owner in self.decided else "no rule"
        return f"{layer.name} shares the weight of {owner}, which {by} decides; match {owner} instead"

    def miss(self, rule: Rule) -> Suggestion | str:
        """What of a rule fails: its pattern, or the kind or shape of what the pattern matches."""
        layers: Iterable[LayerInfo] = self.model.layers
        whose = "the model's layers are"
        if rule.match is not None:
            layers = [layer for layer in self.model.layers if rule.match.matches(layer.name)]
            if not layers:
                return suggest(rule.match, self.names)
            whose = f"what '{rule.match.text}' matches is"
        forms = dict.fromkeys(f"{layer.kind} [{', '.join(map(str, layer.shape))}]" for layer in layers)
        return f"{whose} {', '.join(list(forms)[:8])}{', …' if len(forms) > 8 else ''}"

    def unused_choices(self, rule: Rule) -> list[Problem]:
        """`{a,b}` where no layer has b."""
        if rule.match is None:
            return []
        missing = list(rule.match.unused_alternatives(self.names))
        if not missing:
            return []
        words = ", ".join(f"'{alternative.text}'" for alternative, _ in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        what = "choice" if len(missing) == 1 else "choices"
        text = f"{rule.label}: no layer matches with {what} {words}{more}"
        return [(rule.match_place or rule.place, f"{text}: {suggest(missing[0][1], self.names)}")]


def _fits(rule: Rule, layer: LayerInfo) -> bool:
    if rule.kind is not None and rule.kind != layer.kind:
        return False
    if rule.shape is not None and (
        len(rule.shape) != len(layer.shape)
        or any(want not in ("*", size) for want, size in zip(rule.shape, layer.shape, strict=True))
    ):
        return False
    return rule.match is None or rule.match.matches(layer.name)


def _labels(rules: Iterable[Rule]) -> str:
    labels = [rule.label for rule in rules]
    return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
