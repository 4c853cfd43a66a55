"""Matrix products of a compiled update, turned to the side that is fast. Imported with the compiler, not before."""

from typing import Any

import torch as th
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

#: columns below which a product is turned, and rows from which on
NARROW, TALL = 16, 128


class WideProducts(CustomGraphPass):
    """
    Computes a product with many rows and few columns, X Y, as (Y' X')'.

    On a CPU, where matrix libraries work along the rows of a result, a dozen columns at a time: with no more columns
    than that, the other way round is up to four times as fast. Such are the gradients of a first layer's weights, and
    of the actions that go into a critic.
    """

    def __call__(self, graph: fx.Graph) -> None:
        """
        Turn the narrow products of a graph.

        :param graph: changed in place
        """
        for product in (th.ops.aten.mm.default, th.ops.aten.bmm.default):
            for node in graph.find_nodes(op="call_function", target=product):
                result = node.meta["val"]
                rows, columns = result.shape[-2:]
                if result.device.type != "cpu" or not (1 < columns < NARROW and rows >= TALL):
                    continue
                with graph.inserting_before(node):
                    left, right = node.args
                    turned = _call(graph, product, _transposed(graph, right), _transposed(graph, left))
                    node.replace_all_uses_with(_transposed(graph, turned))
                graph.erase_node(node)

    def uuid(self) -> Any:
        """
        Identify this pass in the compiler's cache.

        :return: another value when this file is another one
        """
        return get_hash_for_files((__file__,))


def _transposed(graph: fx.Graph, node: fx.Node) -> fx.Node:
    dimensions = [*range(node.meta["val"].dim())]
    return _call(graph, th.ops.aten.permute.default, node, [*dimensions[:-2], dimensions[-1], dimensions[-2]])


def _call(graph: fx.Graph, function: Any, *arguments: Any) -> fx.Node:
    """
    Put a call into a graph, with what the compiler wants to know of its result.

    :param graph: where
    :param function: what is called
    :param arguments: nodes, and constants
    :return: the call
    """
    node = graph.call_function(function, arguments)
    node.meta["val"] = function(*(a.meta["val"] if isinstance(a, fx.Node) else a for a in arguments))
    return node
