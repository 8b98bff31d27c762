package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// kmsUnitCommand is kmsfs kms unit.
func (a *app) kmsUnitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unit [service|socket]",
		Short: "Print systemd units for the server",
		Long: `Print a systemd service that runs the server as a user of its own with nothing but its two directories, and the socket
that starts it. With service or socket, print only that one. To serve other machines add --tls-cert and --tls-key, and change
ListenStream and IPAddressAllow.`,
		Example: `  sudo useradd --system --shell /usr/sbin/nologin kmsfs-kms
  kmsfs kms unit service | sudo tee /etc/systemd/system/kmsfs-kms.service
  kmsfs kms unit socket | sudo tee /etc/systemd/system/kmsfs-kms.socket
  sudo systemctl enable --now kmsfs-kms.socket`,
		Args: args("[service|socket]"),
		RunE: func(_ *cobra.Command, args []string) error {
			switch strings.Join(args, "") {
			case "":
				_, err := fmt.Fprintf(a.stdout, "# /etc/systemd/system/kmsfs-kms.service\n%s\n# /etc/systemd/system/kmsfs-kms.socket\n%s",
					serviceUnit, socketUnit)
				return err
			case "service":
				_, err := io.WriteString(a.stdout, serviceUnit)
				return err
			case "socket":
				_, err := io.WriteString(a.stdout, socketUnit)
				return err
			}
			return hintf(faultf(errUsage, "there is no unit %q", args[0]), "kmsfs kms unit service, or: kmsfs kms unit socket")
		},
	}
}

// serviceUnit is the service. The server drops nothing by itself there: systemd starts it with nothing.
const serviceUnit = `[Unit]
Description=KMS server of kmsfs
Documentation=man:kmsfs-kms-serve(1)
Requires=kmsfs-kms.socket
After=kmsfs-kms.socket

[Service]
Type=notify
User=kmsfs-kms
ExecStart=/usr/local/bin/kmsfs kms serve --key-store /var/lib/kmsfs-kms --audit /var/log/kmsfs-kms/audit.log
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
TimeoutStopSec=30
StateDirectory=kmsfs-kms
StateDirectoryMode=0700
LogsDirectory=kmsfs-kms
LogsDirectoryMode=0700
UMask=0077
LimitCORE=0
LimitMEMLOCK=infinity
MemorySwapMax=0
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateDevices=yes
PrivateTmp=yes
PrivateUsers=yes
RemoveIPC=yes
IPAddressDeny=any
IPAddressAllow=localhost
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service seccomp
SystemCallErrorNumber=EPERM

[Install]
Also=kmsfs-kms.socket
`

// socketUnit is the socket.
const socketUnit = `[Unit]
Description=Socket of the KMS server of kmsfs
Documentation=man:kmsfs-kms-serve(1)

[Socket]
ListenStream=127.0.0.1:4599
ListenStream=/run/kmsfs-kms.sock
SocketUser=kmsfs-kms
SocketMode=0660

[Install]
WantedBy=sockets.target
`
