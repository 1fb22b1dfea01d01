package lab

import (
	"fmt"
	"net"
)

// Listen listens on the host, as net.Listen does. What accepts goes on when the
// daemon is killed or paused, as another program of a real host would.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	err = h.ns.do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on host %s: %w", h.Name, err)
	}
	return l, nil
}
