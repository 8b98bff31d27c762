package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"

	"kmsfs/keysource/kms/server"
)

// kmsListeners reads the certificate and opens the sockets.
func (a *app) kmsListeners(k *kmsServer, as *serverUser) (*server.Certificate, []*server.Listener, error) {
	var certificate *server.Certificate
	var config *tls.Config
	if k.tlsCert != "" {
		var err error
		if certificate, err = server.LoadCertificate(k.tlsCert, k.tlsKey); err != nil {
			return nil, nil, hintf(faultf(errUsage, "%w", err), "both files are PEM, and the key is that of the first certificate")
		}
		config = certificate.Config()
	}
	inherited, err := a.inheritedSockets()
	if err != nil {
		return nil, nil, err
	}
	addresses := k.listen
	if len(addresses) == 0 && len(inherited) == 0 {
		addresses = []string{defaultListen}
	}
	var listeners []*server.Listener
	add := func(l *server.Listener, err error) error {
		if err == nil {
			listeners = append(listeners, l)
		}
		return err
	}
	for _, l := range inherited {
		err = errors.Join(err, add(server.Inherit(l, config)))
	}
	for _, address := range addresses {
		if err == nil {
			err = add(server.Listen(address, config))
		}
	}
	if err == nil {
		err = as.own(listeners)
	}
	if err != nil {
		closeAll(listeners)
		return nil, nil, err
	}
	return certificate, listeners, nil
}

// closeAll closes listeners; those that are closed stay so.
func closeAll(listeners []*server.Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// endpoint is how a client names where the server listens.
func endpoint(at net.Addr, encrypted bool) string {
	switch {
	case at.Network() == "unix":
		return server.UnixPrefix + at.String()
	case encrypted:
		return "https://" + at.String()
	}
	return "http://" + at.String()
}

// reloadOn reads the certificate again on each signal, until ctx ends.
func reloadOn(ctx context.Context, signals <-chan os.Signal, certificate *server.Certificate, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
		if certificate == nil {
			continue
		}
		if err := certificate.Reload(); err != nil {
			log.Error("the certificate cannot be read again, using the one from before", "error", err)
			continue
		}
		log.Info("the certificate was read again")
	}
}
