"""The attackers of simulated worlds: what they do otherwise than production code, and nothing more.

:mod:`~simulations.world.attacks.base` is the honest node that each of them changes; who sells, who buys and who does
neither has a module each; :mod:`~simulations.world.attacks.gains` reckons what it brought. Their door is
:mod:`simulations.world.attackers`.
"""
