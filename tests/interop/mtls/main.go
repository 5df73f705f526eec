// Command mtls carries connections over mutual TLS: whoever connects to it in plaintext is connected to the address that it is
// told, under the certificate that it is given. For programs that cannot show one, such as gRPC's interop client.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"io"
	"log"
	"net"
	"os"
)

func main() {
	listen := flag.String("listen", "", "where to accept connections")
	to := flag.String("to", "", "where to connect to")
	ca := flag.String("cacert", "", "the root that the certificate there comes from")
	certificate := flag.String("cert", "", "the certificate to show")
	key := flag.String("key", "", "its key")
	flag.Parse()

	pem, err := os.ReadFile(*ca)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		log.Fatalf("no certificate in %s", *ca)
	}
	own, err := tls.LoadX509KeyPair(*certificate, *key)
	if err != nil {
		log.Fatal(err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{own},
		RootCAs:      roots,
		NextProtos:   []string{"h2"},
		MinVersion:   tls.VersionTLS13,
	}

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer connection.Close()
			if err := carry(connection.(*net.TCPConn), *to, config); err != nil {
				log.Print(err)
			}
		}()
	}
}

// carry copies both ways until both have ended.
func carry(near *net.TCPConn, to string, config *tls.Config) error {
	far, err := tls.Dial("tcp", to, config)
	if err != nil {
		return err
	}
	defer far.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(near, far)
		near.CloseWrite()
		ended <- err
	}()
	_, err = io.Copy(far, near)
	far.CloseWrite()
	if other := <-ended; err == nil {
		err = other
	}
	return err
}
